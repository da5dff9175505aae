"""`mdt presets`: what there is, and one preset explained."""

from typing import Annotated

import typer

from mdt_cli.cli.options import Json
from mdt_cli.cli.output import emit, emit_json, table

Name = Annotated[str | None, typer.Argument(help="Preset to explain.", show_default=False)]


def presets(name: Name = None, json: Json = False) -> None:
    """List the presets, or explain one. Example: mdt presets mdtv2"""
    from mdt_cli.config import presets as found
    from mdt_cli.config.load import load
    from mdt_cli.config.write import to_toml

    if name is None:
        all_of_them = [found.read(one) for one in found.names()]
        if json:
            emit_json({one.name: one.about for one in all_of_them})
            return
        table(
            "Presets, composed left to right with -p",
            ("name", "what it is"),
            [(one.name, _first_sentence(one.about)) for one in all_of_them],
        )
        return
    preset = found.read(name)
    if json:
        emit_json({"name": preset.name, "about": preset.about, "keys": preset.keys})
        return
    emit(preset.about)
    emit(f"\nFile: {preset.path}\n")
    emit(to_toml(load([name], [])))


def _first_sentence(about: str) -> str:
    """Up to the first full stop that ends a line or a sentence."""
    text = " ".join(about.splitlines())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]
