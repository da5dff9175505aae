import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from mdt_cli.core.metrics import kernel
from mdt_cli.core.metrics.kernel import kernel_distance
from tests.reference import metrics as reference


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def test_equals_the_definition_and_the_jackknife_row_by_row() -> None:
    x, y = draw(14, 5, 0), draw(11, 5, 1, 0.4)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(reference.kernel_distance(x.numpy(), y.numpy()), rel=1e-12)
    assert found.standard_error == pytest.approx(
        reference.jackknife(x.numpy(), y.numpy()), rel=1e-9
    )


def test_equals_torch_fidelity_where_its_subset_is_the_whole() -> None:
    x, y = draw(300, 32, 2), draw(300, 32, 3, 0.1)
    theirs = kid_features_to_metric(
        x,
        y,
        kid_subsets=1,
        kid_subset_size=300,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        rng_seed=0,
        verbose=False,
    )["kernel_inception_distance_mean"]
    assert kernel_distance(x, y).value == pytest.approx(theirs, rel=1e-11)


def test_blocks_and_order_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(90, 16, 4), draw(70, 16, 5)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(kernel, "ROWS", 13)
    monkeypatch.setattr(kernel, "COLUMNS", 17)
    parts = kernel_distance(x.flip(0), y.flip(0))
    assert parts.value == pytest.approx(whole.value, abs=1e-13)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


def test_is_unbiased_and_the_standard_error_is_its_spread() -> None:
    apart = [kernel_distance(draw(60, 8, s, 0.5), draw(60, 8, 1000 + s)) for s in range(200)]
    spread = np.std([found.value for found in apart])
    told = np.mean([found.standard_error for found in apart])
    assert 0.85 < told / spread < 1.25
    same = [kernel_distance(draw(40, 8, s), draw(40, 8, 5000 + s)).value for s in range(200)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))
    assert min(same) < 0


def test_two_rows_have_a_value_but_no_error() -> None:
    found = kernel_distance(draw(2, 3, 0), draw(2, 3, 1))
    assert found.standard_error is None
    with pytest.raises(ValueError, match="2 rows a side"):
        kernel_distance(draw(1, 3, 0), draw(2, 3, 1))
