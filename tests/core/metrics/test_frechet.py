import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from mdt_cli.core.metrics.frechet import frechet_distance
from mdt_cli.core.metrics.moments import Moments
from tests.reference.metrics import frechet_by_nuclear_norm, frechet_by_sqrtm


def rows(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray:
    """Correlated non-negative rows, as pooled features are."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(d, d)) / np.sqrt(d)
    return np.maximum(draw.normal(mean, 1.0, size=(n, d)) @ mix + 0.3, 0)


def ours(x: np.ndarray, y: np.ndarray) -> float:
    def statistics(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        moments = Moments(values.shape[1])
        moments.add(torch.from_numpy(values))
        return moments.finish()

    return frechet_distance(*statistics(x), *statistics(y))


def test_equals_the_definition_and_torch_fidelity_at_full_rank() -> None:
    x, y = rows(900, 64, 0), rows(700, 64, 1, 0.2)
    theirs = fid_statistics_to_metric(
        {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)},
        {"mu": y.mean(0), "sigma": np.cov(y, rowvar=False)},
        verbose=False,
    )["frechet_inception_distance"]
    assert ours(x, y) == pytest.approx(theirs, rel=1e-9)
    assert ours(x, y) == pytest.approx(frechet_by_sqrtm(x, y), rel=1e-9)
    assert ours(x, y) == pytest.approx(frechet_by_nuclear_norm(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 50), (2, 3), (40, 400)])
def test_is_exact_with_fewer_rows_than_columns(n: int, m: int) -> None:
    x, y = rows(n, 128, 2), rows(m, 128, 3, 0.1)
    assert ours(x, y) == pytest.approx(frechet_by_nuclear_norm(x, y), rel=1e-12)


def test_is_exact_with_dead_columns() -> None:
    x, y = rows(300, 48, 4), rows(300, 48, 5)
    x[:, ::3] = 0
    y[:, ::2] = 0
    assert ours(x, y) == pytest.approx(frechet_by_nuclear_norm(x, y), rel=1e-12)


def test_closed_form_of_diagonal_gaussians() -> None:
    mu = torch.zeros(3)
    one, two = torch.diag(torch.tensor([1.0, 4.0, 0.0])), torch.diag(torch.tensor([9.0, 4.0, 0.0]))
    # (1 - 3)^2 + (2 - 2)^2 + |shift|^2
    assert frechet_distance(mu, one, mu + 2, two) == pytest.approx(4 + 12, abs=1e-12)


def test_a_set_has_no_distance_from_itself() -> None:
    x = rows(100, 64, 6)
    assert ours(x, x) == pytest.approx(0, abs=1e-9)
    zero = np.zeros((5, 4))
    assert ours(zero, zero) == 0
