"""Mask-ratio schedules against published values and against their own words."""

import math

import pytest

from mdt_cli.core.masking.ratio import (
    ConstantRatio,
    CosineDecayRatio,
    CosineGrowthRatio,
    MaskRatio,
    PiecewiseRatio,
    UniformRatio,
)
from mdt_cli.core.masking.tokens import RandomTokens
from mdt_cli.core.rng import stream

CORRECTED = PiecewiseRatio(((0, 0.15), (1 / 6, 0.40), (1 / 3, 0.40), (2 / 3, 0.75)))
SCHEDULES: tuple[MaskRatio, ...] = (
    ConstantRatio(0.3),
    UniformRatio(0.3, 0.5),
    PiecewiseRatio(((0, 0.1), (1, 0.9))),
    CORRECTED,
    PiecewiseRatio(((0.2, 0.6), (0.5, 0.1), (0.5, 0.9), (0.7, 0.0))),
    CosineGrowthRatio(0.15, 0.75),
    CosineDecayRatio(0.5, 0.0, 4),
)


def at(ratio: MaskRatio, step: int, steps: int) -> float:
    return ratio.at(step, steps, stream(step))


def test_growth_meets_the_published_values() -> None:
    # At these shares of the rising part, S = int(2 steps / 3).
    wanted = {0: 0.1500, 0.1: 0.1667, 0.25: 0.2418, 0.5: 0.4537, 0.75: 0.6634, 0.9: 0.7355, 1: 0.75}
    for share, value in wanted.items():
        assert at(CosineGrowthRatio(0.15, 0.75), round(share * 20_000), 30_000) == pytest.approx(
            value, abs=5e-5
        )
    assert at(CosineGrowthRatio(0.15, 0.75), 20_001, 30_000) == pytest.approx(0.75, abs=1e-15)
    assert at(CosineGrowthRatio(0.15, 0.75), 29_999, 30_000) == pytest.approx(0.75, abs=1e-15)
    assert at(CosineGrowthRatio(0.15, 0.75), 0, 1) == 0.15


def test_decay_meets_the_published_values() -> None:
    for share, value in {0: 0.5, 0.25: 0.3643, 0.5: 0.125, 0.75: 0.0107}.items():
        ratio = at(CosineDecayRatio(0.5, 0.0, 4), round(share * 100_000), 100_000)
        assert ratio == pytest.approx(value, abs=5e-5)
    assert at(CosineDecayRatio(0.5, 0.1, 4), 50_000, 100_000) == pytest.approx(0.4 * 0.25 + 0.1)
    assert at(CosineDecayRatio(0.5, 0.0, 2), 50_000, 100_000) == pytest.approx(0.25)


def test_decay_drops_nothing_from_where_official_code_divides_by_zero() -> None:
    """Its last six steps of 100,000 have a ratio above 0 that changes nothing beside 1."""
    ratio = CosineDecayRatio(0.5, 0.0, 4)
    kept = [RandomTokens().num_kept((16, 16), at(ratio, k, 100_000)) for k in (99_993, 99_994)]
    assert kept == [255, 256]
    assert at(ratio, 99_994, 100_000) > 0


def test_piecewise_is_the_corrected_one() -> None:
    wanted = {0: 0.15, 500: 0.275, 1000: 0.40, 1500: 0.40, 2000: 0.40, 3000: 0.575, 4000: 0.75}
    for step, value in {**wanted, 5999: 0.75}.items():
        assert at(CORRECTED, step, 6000) == pytest.approx(value)


def test_piecewise_is_flat_outside_and_may_jump() -> None:
    ratio = PiecewiseRatio(((0.2, 0.6), (0.5, 0.1), (0.5, 0.9), (0.7, 0.0)))
    for step, value in {0: 0.6, 20: 0.6, 35: 0.35, 49: 0.6 - 0.5 * 29 / 30, 50: 0.9}.items():
        assert at(ratio, step, 100) == pytest.approx(value)
    assert at(ratio, 99, 100) == 0


def test_uniform_draws_once_per_step_from_its_range() -> None:
    assert at(ConstantRatio(0.3), 5, 10) == 0.3
    drawn = [at(UniformRatio(0.3, 0.5), k, 500) for k in range(500)]
    assert min(drawn) >= 0.3
    assert max(drawn) < 0.5
    assert sum(drawn) / 500 == pytest.approx(0.4, abs=4 * 0.2 / math.sqrt(12 * 500))
    assert len(set(drawn)) == 500
    assert drawn == [at(UniformRatio(0.3, 0.5), k, 500) for k in range(500)]


@pytest.mark.parametrize("ratio", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_extremes_and_mean_are_those_of_all_steps(ratio: MaskRatio, steps: int) -> None:
    bounds = [ratio.bounds_at(step, steps) for step in range(steps)]
    assert ratio.extremes(steps) == (min(low for low, _ in bounds), max(high for _, high in bounds))
    assert ratio.mean(steps) == pytest.approx(sum(map(sum, bounds)) / (2 * steps))


@pytest.mark.parametrize("ratio", SCHEDULES, ids=repr)
def test_the_mean_of_a_long_run_comes_from_a_thousand_steps(ratio: MaskRatio) -> None:
    every = [sum(ratio.bounds_at(step, 12_345)) / 2 for step in range(12_345)]
    assert ratio.mean(12_345) == pytest.approx(sum(every) / 12_345, abs=1e-3)
