import warnings

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as frechet_of_clean_fid
from torch_fidelity.metric_fid import fid_statistics_to_metric

from mdt_cli.metrics.frechet import frechet_distance, frechet_infinity, frechet_with_error
from mdt_cli.metrics.statistics import Moments
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


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    moments = Moments(x.shape[1])
    moments.add(x)
    return moments.finish()


def test_the_error_is_the_spread_of_many_draws() -> None:
    """The infinitesimal jackknife beside 1,000 fresh sets, correlated and with shifted means."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64) / 3
    target = statistics(torch.randn(4000, 12, generator=generator, dtype=torch.float64) + 0.3)
    values, errors = [], []
    for _ in range(1000):
        x = torch.randn(600, 12, generator=generator, dtype=torch.float64) @ mix
        found = frechet_with_error(x, *statistics(x), *target)
        assert found.value == pytest.approx(
            frechet_distance(*statistics(x), *target), rel=1e-9, abs=1e-9
        )
        values.append(found.value)
        errors.append(found.standard_error)
    assert 0.92 < np.mean(errors) / np.std(values) < 1.12


@pytest.mark.parametrize(("n", "scale"), [(8, 1.2), (16, 1.2), (32, 1.0), (128, 1.0)])
def test_the_error_is_not_too_small_with_few_rows_or_near_zero(n: int, scale: float) -> None:
    """N from half of D = 16 on, and the target's own distribution: told / true was 1.1 to 1.7.

    The spread of 200 draws is known to 5 %.
    """
    generator = torch.Generator().manual_seed(n)
    target = torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64)
    found = []
    for _ in range(200):
        x = torch.randn(n, 16, generator=generator, dtype=torch.float64) * scale
        found.append(frechet_with_error(x, *statistics(x), *target))
    told = np.mean([one.standard_error for one in found])
    assert 0.95 < told / np.std([one.value for one in found]) < 2


def test_the_error_is_the_jackknife_row_by_row() -> None:
    x = torch.from_numpy(rows(200, 6, 1))
    target = statistics(torch.from_numpy(rows(300, 6, 2, 0.2)))
    without = [
        frechet_distance(*statistics(torch.cat([x[:i], x[i + 1 :]])), *target) for i in range(200)
    ]
    expected = np.sqrt(199 * np.var(without))
    found = frechet_with_error(x, *statistics(x), *target)
    assert found.standard_error == pytest.approx(expected, rel=0.05)


def test_the_error_with_dead_columns_and_few_rows() -> None:
    x = torch.from_numpy(rows(30, 48, 4))
    x[:, ::3] = 0
    target = statistics(torch.from_numpy(rows(300, 48, 5)))
    found = frechet_with_error(x, *statistics(x), *target)
    assert found.value == pytest.approx(frechet_distance(*statistics(x), *target), rel=1e-9)
    assert found.standard_error is not None
    assert 0 < found.standard_error < found.value


def test_extrapolation_takes_the_bias_away() -> None:
    """Two draws of one distribution: the distance at N is bias alone, its limit is 0."""
    generator = torch.Generator().manual_seed(3)
    target = torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64)
    limits, plain = [], []
    for _ in range(20):
        x = torch.randn(1500, 16, generator=generator, dtype=torch.float64)
        found = frechet_infinity(x, *target)
        assert found.sizes[0] == 150
        assert found.sizes[-1] == 1500
        assert len(found.sizes) == 15
        assert found.distances[-1] == pytest.approx(
            frechet_distance(*statistics(x), *target), rel=1e-9
        )
        limits.append(found.value)
        plain.append(found.distances[-1])
    assert np.mean(plain) > 0.03
    assert abs(np.mean(limits)) < 0.1 * np.mean(plain)
    with pytest.raises(ValueError, match="over 16 features needs 170 rows, got 169"):
        frechet_infinity(x[:169], *target)
    assert abs(frechet_infinity(x[:170], *target).value) < 1


@pytest.mark.parametrize("scale", [1.0, 1.1, 1.5])
def test_the_error_of_the_limit_is_its_spread(scale: float) -> None:
    """At 20 D rows, from the target's own distribution to one far away; 60 draws tell to 9 %."""
    generator = torch.Generator().manual_seed(5)
    target = torch.zeros(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64)
    found = [
        frechet_infinity(
            torch.randn(240, 12, generator=generator, dtype=torch.float64) * scale, *target
        )
        for _ in range(60)
    ]
    told = np.mean([one.standard_error for one in found])
    assert 0.75 < told / np.std([one.value for one in found], ddof=1) < 1.3


def test_extrapolation_is_the_least_squares_line() -> None:
    x = torch.from_numpy(rows(400, 8, 7))
    found = frechet_infinity(x, *statistics(torch.from_numpy(rows(500, 8, 8, 0.1))))
    slope, value = np.polyfit(1 / np.array(found.sizes), found.distances, 1)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.slope == pytest.approx(slope, rel=1e-9)


def test_few_rows_give_the_root_that_the_covariance_gives() -> None:
    x, y = torch.from_numpy(rows(12, 64, 4)), torch.from_numpy(rows(10, 64, 5))
    x[:, ::3] = 0
    found = frechet_with_error(x, *statistics(x), *statistics(y), y)
    assert found.value == pytest.approx(frechet_by_nuclear_norm(x.numpy(), y.numpy()), rel=1e-12)
    wide = frechet_with_error(x, *statistics(x), *statistics(y))
    assert found.value == pytest.approx(wide.value, rel=1e-12)
    assert found.standard_error == pytest.approx(wide.standard_error, rel=1e-8)


def clean_fids(x: np.ndarray, y: np.ndarray) -> float:
    """clean-fid's own function, which scipy 1.18 breaks: the development extra stays below it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = frechet_of_clean_fid(
            x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
        )
    return float(value)


@pytest.mark.parametrize("case", ["full rank", "fewer rows than columns", "dead columns"])
def test_equals_clean_fid_and_scipys_root(case: str) -> None:
    n = 40 if case == "fewer rows than columns" else 500
    x, y = rows(n, 64, 10), rows(600, 64, 11, 0.2)
    if case == "dead columns":
        x[:, ::5] = 0
        y[:, ::5] = 0
    with warnings.catch_warnings():
        # scipy says that a singular root may be inaccurate: it is not, here.
        warnings.simplefilter("ignore")
        assert ours(x, y) == pytest.approx(frechet_by_sqrtm(x, y), rel=1e-6)
    # Last: where clean-fid cannot run, everything above has been compared.
    assert ours(x, y) == pytest.approx(clean_fids(x, y), rel=1e-6)
