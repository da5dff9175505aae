"""The mask ratio of a configuration: apart from build.py, so that to print it loads no torch."""

from dataclasses import dataclass
from typing import assert_never

from mdt_cli.config.masking import (
    ConstantRatio,
    CosineDecayRatio,
    CosineGrowthRatio,
    LinearRatio,
    Masking,
    PiecewiseRatio,
    UniformRatio,
)
from mdt_cli.config.run import RunConfig
from mdt_cli.core import schedules
from mdt_cli.core.schedules import MaskRatio


@dataclass(frozen=True)
class RatioCurve:
    """The range that the ratio is drawn from at evenly spaced steps, first and last included."""

    kind: str
    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: float


def build_mask_ratio(masking: Masking) -> MaskRatio:
    table = masking.ratio
    match table:
        case ConstantRatio():
            return schedules.ConstantRatio(table.value)
        case UniformRatio():
            return schedules.UniformRatio(table.low, table.high)
        case LinearRatio():
            return schedules.PiecewiseRatio(((0.0, table.start), (1.0, table.end)))
        case PiecewiseRatio():
            return schedules.PiecewiseRatio(table.points)
        case CosineGrowthRatio():
            return schedules.CosineGrowthRatio(table.start, table.end)
        case CosineDecayRatio():
            return schedules.CosineDecayRatio(table.start, table.end, table.power)
        case _:
            assert_never(table)


def ratio_curve(config: RunConfig, count: int) -> RatioCurve | None:
    """At `count` steps of the run, or at all where it has fewer; None where nothing is masked."""
    masking, last = config.masking, config.training.steps - 1
    if not masking.is_masked or masking.selector.kind == "crop":
        return None
    ratio = build_mask_ratio(masking)
    count = min(count, last + 1)
    steps = [k * last // max(1, count - 1) for k in range(count)]
    bounds = [ratio.bounds_at(step, last + 1) for step in steps]
    return RatioCurve(
        masking.ratio.kind,
        tuple(steps),
        tuple(low for low, _ in bounds),
        tuple(high for _, high in bounds),
        ratio.mean(last + 1),
    )
