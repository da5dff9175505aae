import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from mdt_cli.metrics.intervals import Z95
from mdt_cli.metrics.neighbours import squared_radii
from mdt_cli.metrics.precision_recall import density_coverage, precision_recall
from tests.reference import metrics as reference
from tests.reference.metrics import share_inside


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_definition(k: int) -> None:
    x, y = draw(60, 4, 0, 1.3), draw(45, 4, 1)
    found = precision_recall(x, y, k)
    assert found.precision == share_inside(x.double().numpy(), y.double().numpy(), k)
    assert found.recall == share_inside(y.double().numpy(), x.double().numpy(), k)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_equals_torch_fidelity() -> None:
    x, y = draw(400, 16, 2, 1.1).double(), draw(300, 16, 3).double()
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    found = precision_recall(x, y)
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_blocks_and_order_change_nothing() -> None:
    """The least memory makes blocks of 16 x 64."""
    x, y = draw(130, 6, 4), draw(90, 6, 5, 1.2)
    assert precision_recall(x.flip(0), y.flip(0), memory=0) == precision_recall(x, y)
    one, other = density_coverage(x.flip(0), y.flip(0), memory=0), density_coverage(x, y)
    assert one.density == pytest.approx(other.density, rel=1e-12)
    assert one.coverage == other.coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_equal_the_definition(k: int) -> None:
    x, y = draw(60, 4, 0, 1.3), draw(45, 4, 1)
    found = density_coverage(x, y, k)
    balls = reference.balls_around(x.double().numpy(), y.double().numpy(), k)
    assert found.density == pytest.approx(balls.sum(1).mean() / k, rel=1e-12)
    assert found.density_error == pytest.approx((balls.sum(1) / k).std(ddof=1) / 60**0.5, rel=1e-9)
    assert found.coverage == balls.any(0).mean()
    assert 0 < found.coverage < 1


def test_coverage_of_fresh_samples_is_its_closed_form() -> None:
    """Naeem et al. 2020, eq. 10, for two draws of one distribution, and density 1."""
    n, m, k = 300, 250, 5
    found = [
        density_coverage(draw(m, 8, seed).double(), draw(n, 8, 1000 + seed).double(), k)
        for seed in range(40)
    ]
    missed = 1.0
    for i in range(k):
        missed *= (n - 1 - i) / (n + m - 1 - i)
    assert np.mean([one.coverage for one in found]) == pytest.approx(1 - missed, abs=0.004)
    assert np.mean([one.density for one in found]) == pytest.approx(1, abs=0.03)


def test_copies_are_inside_though_their_ball_is_a_point() -> None:
    """Four copies give radius 0; the rounding of large norms must not push a fifth one out."""
    points = draw(200, 512, 6, 100.0)
    centres = points.repeat(4, 1)
    for point in points[:20]:
        assert precision_recall(point.repeat(5, 1), centres).precision == 1


def test_the_error_of_a_cover_is_the_jackknife_of_its_balls() -> None:
    x, y = draw(60, 4, 0, 1.3), draw(45, 4, 1)
    recalled = precision_recall(x, y, memory=0)
    covered = density_coverage(x, y, memory=0)
    ours, theirs = squared_radii(x, 3), squared_radii(y, 5)
    distance = torch.cdist(x.double(), y.double()) ** 2
    for inside, told in (
        (distance <= ours[:, None], recalled.recall_error),
        (distance <= theirs[None], covered.coverage_error),
    ):
        without = [
            torch.cat([inside[:i], inside[i + 1 :]]).any(0).double().mean().item()
            for i in range(60)
        ]
        assert told == pytest.approx((59 * np.var(without)) ** 0.5, rel=1e-9)
        assert told > 0


def test_sets_of_one_distribution_have_the_recall_that_their_error_allows() -> None:
    """One reference, fresh samples, few beside it: a binomial error over its rows is about half of
    the spread. The spread of 60 sets is known to 9 %."""
    y = draw(500, 8, 5)
    found = [precision_recall(draw(100, 8, 100 + seed, 0.8), y) for seed in range(60)]
    recalls, errors = np.array([(one.recall, one.recall_error) for one in found]).T
    binomial = (recalls.mean() * (1 - recalls.mean()) / 500) ** 0.5
    assert binomial < 0.8 * recalls.std(ddof=1)
    assert 0.85 < errors.mean() / recalls.std(ddof=1) < 1.5
    apart = abs(recalls[::2] - recalls[1::2]) > Z95 * np.hypot(errors[::2], errors[1::2])
    assert apart.mean() < 0.11


def test_radius_is_the_kth_other_row() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert squared_radii(line, 1).tolist() == [1, 1, 4, 16]
    assert squared_radii(line, 3).tolist() == [49, 36, 16, 49]
    with pytest.raises(ValueError, match="at least 4 rows"):
        precision_recall(line[:3], line, 3)
