import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance as kernel_of_clean_fid
from torch_fidelity.metric_kid import kid_features_to_metric

from mdt_cli.metrics import kernel
from mdt_cli.metrics.intervals import Z95
from mdt_cli.metrics.kernel import block_kernel_distance, clip_distance, kernel_distance
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
    a, b = x.numpy(), y.numpy()
    without = [reference.kernel_distance(np.delete(a, i, 0), b) for i in range(14)]
    assert found.samples_error == pytest.approx((13 * np.var(without)) ** 0.5, rel=1e-9)


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
    monkeypatch.setattr(kernel, "SQUARE", 19)
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


def test_two_sets_before_one_reference_are_told_apart_one_time_in_twenty() -> None:
    """Both of one distribution, unlike that of a small reference, whose share of the error they
    have in common. The rate of 300 pairs scatters by 0.013."""
    apart, shared, told = [], [], []
    for seed in range(300):
        y = draw(40, 8, 10_000 + seed)
        found = [kernel_distance(draw(120, 8, k * 1000 + seed, 0.3), y) for k in (1, 2)]
        difference = abs(found[0].value - found[1].value)
        own = np.hypot(*(one.samples_error for one in found))
        apart.append(difference > Z95 * own)
        shared.append(difference > Z95 * np.hypot(*(one.standard_error for one in found)))
        told.append((difference, own))
    assert 0.01 < np.mean(apart) < 0.09
    assert np.mean(shared) == 0
    differences, errors = np.array(told).T
    assert 0.9 < errors.mean() / np.sqrt((differences**2).mean()) < 1.25


def test_two_rows_have_a_value_but_no_error() -> None:
    found = kernel_distance(draw(2, 3, 0), draw(2, 3, 1))
    assert found.standard_error is found.samples_error is None
    with pytest.raises(ValueError, match="2 rows a side"):
        kernel_distance(draw(1, 3, 0), draw(2, 3, 1))


def test_blocks_are_the_mean_of_torch_fidelitys_subset_estimates() -> None:
    x, y = draw(130, 6, 6), draw(110, 6, 7, 0.3)
    found = block_kernel_distance(x, y, size=50)
    parts = [
        kid_features_to_metric(
            x[start : start + 50],
            y[start : start + 50],
            kid_subsets=1,
            kid_subset_size=50,
            kid_kernel="poly",
            kid_kernel_poly_degree=3,
            kid_kernel_poly_gamma=None,
            kid_kernel_poly_coef0=1.0,
            rng_seed=0,
            verbose=False,
        )["kernel_inception_distance_mean"]
        for start in (0, 50)
    ]
    assert (found.blocks, found.size) == (2, 50)
    assert found.value == pytest.approx(np.mean(parts), rel=1e-10)
    assert found.standard_error == pytest.approx(np.std(parts, ddof=1) / 2**0.5, rel=1e-8)
    whole = block_kernel_distance(x[:40], y)
    assert (whole.blocks, whole.size, whole.standard_error) == (1, 40, None)
    assert whole.value == pytest.approx(kernel_distance(x[:40], y[:40]).value, rel=1e-12)


def test_blocks_scatter_about_the_estimate_of_all_pairs() -> None:
    x, y = draw(3000, 8, 8), draw(3000, 8, 9, 0.2)
    blocks, pairs = block_kernel_distance(x, y, size=100), kernel_distance(x, y)
    assert blocks.standard_error is not None
    assert abs(blocks.value - pairs.value) < 4 * blocks.standard_error
    assert pairs.standard_error < blocks.standard_error


def test_clip_distance_equals_the_definition() -> None:
    x, y = (torch.nn.functional.normalize(draw(n, 9, n), dim=1) for n in (17, 12))
    y[:, 0] += 1
    y = torch.nn.functional.normalize(y, dim=1)
    found = clip_distance(x, y)
    assert found.value == pytest.approx(reference.clip_distance(x.numpy(), y.numpy()), rel=1e-9)
    assert found.standard_error is not None
    assert found.samples_error is not None
    assert 0 < found.samples_error < found.standard_error
    # The Gaussian is so wide that the distance of the means is nearly all of it.
    shift = x.mean(0) - y.mean(0)
    assert found.value == pytest.approx(1000 * float(shift @ shift) / 100, rel=0.02)
    assert clip_distance(x, x).value == pytest.approx(0, abs=1e-9)


def test_equals_clean_fid_where_its_subset_is_the_whole() -> None:
    x, y = draw(300, 32, 2).numpy(), draw(300, 32, 3, 0.1).numpy()
    theirs = kernel_of_clean_fid(x, y, num_subsets=1, max_subset_size=300)
    found = kernel_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert found.value == pytest.approx(float(theirs), rel=1e-9)
