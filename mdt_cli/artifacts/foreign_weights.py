"""Weights of other programs, recognised wherever weights of mdt are expected."""

import pickle
import shlex
import zipfile
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.zip_reader import ZIP_FAULTS

ENDINGS = (".pt", ".pth", ".ckpt")
# How torch.save begins a file: a zip, or in old versions a pickle.
_ZIP, _PICKLE = b"PK\x03\x04", pickle.PROTO + b"\x02"


def is_torch_file(path: Path) -> bool:
    """Whether this is a file of torch.save, intact or cut short, by its content."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
        if start.startswith(_PICKLE):
            return True
        if start != _ZIP:
            return False
        if not zipfile.is_zipfile(path):
            return path.suffix.lower() in ENDINGS
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except ZIP_FAULTS:
        return False


def how_to_import(path: Path) -> str:
    """The command that makes weights of mdt from such a file."""
    source, out = shlex.quote(str(path)), shlex.quote(f"{path.stem}-imported")
    return f"convert it first: mdt import {source} {out}"


def refuse_torch_file(path: Path) -> None:
    """MdtError for a file of torch.save, which only `mdt import` reads."""
    if is_torch_file(path):
        raise MdtError(
            f"{path} is a file of torch.save, not weights of mdt",
            f"{how_to_import(path)}; then give {path.stem}-imported",
        )
