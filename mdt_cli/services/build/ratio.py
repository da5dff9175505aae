"""The mask ratio of a configuration: a module of its own, so that printing it loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from mdt_cli.config.load import load_config
from mdt_cli.config.masking import (
    ConstantRatioConfig,
    CosineDecayRatioConfig,
    CosineGrowthRatioConfig,
    LinearRatioConfig,
    MaskingConfig,
    PiecewiseRatioConfig,
    UniformRatioConfig,
)
from mdt_cli.config.presets import Preset
from mdt_cli.config.run import RunConfig
from mdt_cli.core.masking.ratio import (
    ConstantRatio,
    CosineDecayRatio,
    CosineGrowthRatio,
    MaskRatio,
    PiecewiseRatio,
    UniformRatio,
)
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path


@dataclass(frozen=True)
class RatioCurve:
    """The range that the ratio is drawn from at evenly spaced steps, first and last included."""

    kind: str
    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: float


def build_mask_ratio(masking: MaskingConfig) -> MaskRatio:
    """The schedule of `[masking.ratio]`."""
    table = masking.ratio
    match table:
        case ConstantRatioConfig():
            return ConstantRatio(table.value)
        case UniformRatioConfig():
            return UniformRatio(table.low, table.high, table.draw == "micro_batch")
        case LinearRatioConfig():
            return PiecewiseRatio(((0.0, table.start), (1.0, table.end)))
        case PiecewiseRatioConfig():
            return PiecewiseRatio(table.points)
        case CosineGrowthRatioConfig():
            return CosineGrowthRatio(table.start, table.end)
        case CosineDecayRatioConfig():
            return CosineDecayRatio(table.start, table.end, table.power)
        case _:
            assert_never(table)


def preset_curve(preset: Preset, count: int) -> RatioCurve | None:
    """The curve of a preset by itself; None where it masks nothing and sets no ratio.

    An overlay may set the ratio of a recipe that it is laid over.
    """
    config = load_config([preset.name], []).config
    own = "ratio" in preset.keys.get("masking", {})
    by_ratio = config.masking.is_masked and config.masking.selector.kind != "crop"
    return ratio_curve(config, count) if own or by_ratio else None


def ratio_curve(config: RunConfig, count: int) -> RatioCurve:
    """At `count` steps of the run, or at all where it has fewer."""
    masking, last = config.masking, config.training.steps - 1
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


FORMATS = (".png", ".svg", ".pdf")


def plot_ratio(curve: RatioCurve, title: str, path: Path) -> None:
    """Write a line, or a band where the ratio is drawn; MdtError for another kind of file."""
    if path.suffix.lower() not in FORMATS:
        raise MdtError(
            f"--plot {path}: unknown image format", f"the name may end in {', '.join(FORMATS)}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MdtError("--plot needs matplotlib", 'pip install "mdt-cli[plot]"') from error

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    if curve.low != curve.high:
        axes.fill_between(curve.steps, curve.low, curve.high, alpha=0.3, label="drawn at random")
        axes.legend()
    middle = [(low + high) / 2 for low, high in zip(curve.low, curve.high, strict=True)]
    axes.plot(curve.steps, middle)
    axes.set(xlabel="optimizer step", ylabel="mask ratio", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)
