"""What a program of `mdt export` records: a `.pt2` file, or a folder with `model.onnx`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.program import ABOUT
from mdt_cli.config.load import load_config
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import MAX_BYTES, parse_json, read_json_object
from mdt_cli.services.inspection.inspected import Inspected
from mdt_cli.zip_reader import ZIP_FAULTS, read_member


def torch_program(path: Path) -> Inspected:
    """A .pt2 file, with the settings that `mdt export` stored in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            named = [name for name in archive.namelist() if name.endswith(f"extra/{ABOUT}")]
            about = parse_json(read_member(archive, path, named[0], MAX_BYTES)) if named else None
    except ZIP_FAULTS as error:
        raise MdtError(f"{path} is not a complete torch.export program: {error}") from error
    return _program(path, "torch.export program", about, path.stat().st_size)


def onnx_program(folder: Path) -> Inspected:
    """An ONNX model with `mdt.json` beside it."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return _program(folder, "ONNX program", read_json_object(folder / ABOUT), size)


def _program(path: Path, kind: str, about: Mapping[str, Any] | None, size: int) -> Inspected:
    if about is None:
        return Inspected(path, f"{kind}, not of mdt", {"bytes": size})
    if not isinstance(about, Mapping) or not isinstance(about.get("config"), Mapping):
        raise MdtError(f"what {path} records of itself is damaged: it has no configuration")
    facts = {key: value for key, value in about.items() if key != "config"}
    config = to_toml(load_config([], [], about["config"], path.name))
    return Inspected(path, kind, {**facts, "bytes": size}, config)
