"""`mdt presets`: what there is, and one preset explained."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdt_cli.cli.options import Json
from mdt_cli.cli.output import emit, emit_json, table

if TYPE_CHECKING:
    from mdt_cli.services.build.ratio import RatioCurve

Name = Annotated[str | None, typer.Argument(help="Preset to explain.", show_default=False)]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        help="Plot the preset's mask ratio into this PNG, SVG or PDF file.",
        show_default=False,
    ),
]
# Shares of the run at which the ratio is printed; points of a curve in JSON and in a plot.
PRINTED = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
COARSE, FINE = 60, 1001


def presets(name: Name = None, json: Json = False, plot: Plot = None) -> None:
    """List the presets, or explain one. Example: mdt presets mdtv2"""
    from mdt_cli.config import presets as found
    from mdt_cli.config.load import load_config
    from mdt_cli.config.write import to_toml
    from mdt_cli.errors import MdtError
    from mdt_cli.services.build.ratio import plot_ratio, preset_curve

    if name is None:
        if plot is not None:
            raise MdtError("--plot shows the mask ratio of one preset", "name the preset")
        all_of_them = [found.read_preset(one) for one in found.names()]
        if json:
            emit_json({one.name: one.about for one in all_of_them})
            return
        table(
            "Presets, composed left to right with -p",
            ("name", "what it is"),
            [(one.name, _first_sentence(one.about)) for one in all_of_them],
        )
        return
    preset = found.read_preset(name)
    loaded, fine = load_config([name], []), preset_curve(preset, FINE)
    if plot is not None:
        if fine is None:
            raise MdtError(f"preset {name} has no mask ratio to plot")
        plot_ratio(fine, f"{name}: {fine.kind}", plot)
    if json:
        curve = preset_curve(preset, COARSE)
        emit_json(
            {
                "name": preset.name,
                "about": preset.about,
                "keys": preset.keys,
                "mask_ratio": None if curve is None else asdict(curve),
                **({} if plot is None else {"plot": str(plot)}),
            }
        )
        return
    emit(preset.about)
    emit(f"\nFile: {preset.path}\n")
    emit(to_toml(loaded))
    if fine is not None:
        _show_ratio(fine)


def _show_ratio(curve: "RatioCurve") -> None:
    emit(f"Mask ratio: {curve.kind}, on average {curve.mean:.3f}\n")
    width = len(f"{curve.steps[-1]:,}")
    for index in dict.fromkeys(round(share * (len(curve.steps) - 1)) for share in PRINTED):
        step = f"{curve.steps[index]:,}"
        emit(f"  step {step:>{width}}  {_range(curve.low[index], curve.high[index])}")


def _range(low: float, high: float) -> str:
    return f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}, random"


def _first_sentence(about: str) -> str:
    """Up to the first full stop that ends a line or a sentence."""
    text = " ".join(about.splitlines())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]
