"""Reads tensor files of other programs without executing any code in them."""

import argparse
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from mdt_cli.errors import MdtError

# What torch raises for files that are damaged or were never its own.
_FAULTS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)
_ZIP = b"PK\x03\x04"
# Read by torch's restricted unpickler itself: containers and how tensors are put together.
_HARMLESS = ("torch", "collections", "argparse.Namespace")
_KINDS = "expected a .pt or .pth file of torch.save, or a .safetensors file"


def read_foreign(path: Path) -> Any:
    """The content of the file: a state dict, or a container around some. Tensors stay mapped.

    Only tensors, plain values and `argparse.Namespace` are built. Raises MdtError for a file that
    asks for more, is cut short, or is no checkpoint.
    """
    if path.is_dir():
        raise MdtError(f"{path} is a folder", _KINDS)
    if not path.is_file():
        raise MdtError(f"no such file: {path}")
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if is_zip and not zipfile.is_zipfile(path):
        raise _cut_short(path)
    try:
        with _only_namespace(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except _FAULTS as error:
        if is_zip and _holds_pickle(path):
            raise _cut_short(path) from error
        if "unexpected EOF" in str(error):
            raise _cut_short(path) from error
        raise MdtError(f"{path} is not a checkpoint saved by torch", _KINDS) from error


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            if "mdt.config" in (file.metadata() or {}):
                raise MdtError(
                    f"{path} was written by mdt and needs no import",
                    "mdt sample, finetune and export read it directly",
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise MdtError(f"{path} is not an intact safetensors file: {error}") from error


@contextmanager
def _only_namespace() -> Iterator[None]:
    """Allow `argparse.Namespace` (DiT keeps its arguments in one) and nothing that was allowed
    elsewhere in this process."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _cut_short(path: Path) -> MdtError:
    return MdtError(f"{path} is damaged or cut short", "fetch it again and compare its size")


def _refused(path: Path, message: str) -> MdtError:
    named = re.search(r"GLOBAL (\S+)", message)
    wanted = named[1] if named else next(_forbidden(path), None)
    if wanted is not None:
        return MdtError(
            f"{path} was not read: it refers to {wanted}, which may run code; only tensors, plain "
            "values and argparse.Namespace are allowed",
            "obtain the state dict alone, saved by torch.save or as .safetensors",
        )
    if "pickle protocol" in message or "Unsupported operand" in message:
        with _pickle_of(path) as file:
            if file.read(1) == b"\x80":
                return MdtError(
                    f"{path} is a pickle of a protocol that cannot be read safely",
                    "save it again with torch.save and its default protocol",
                )
    return MdtError(f"{path} is not a checkpoint saved by torch", _KINDS)


def _forbidden(path: Path) -> Iterator[str]:
    """Functions and classes that the pickle refers to and that are not allowed."""
    texts: list[str] = []
    with _pickle_of(path) as file:
        try:
            while True:
                for opcode, argument, _ in pickletools.genops(file):
                    name = None
                    if opcode.name in ("GLOBAL", "INST"):
                        name = str(argument).replace(" ", ".")
                    elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                        name = ".".join(texts[-2:])
                    elif isinstance(argument, str):
                        texts.append(argument)
                    if name is not None and not name.startswith(_HARMLESS):
                        yield name
        except (ValueError, OSError, EOFError):
            return


@contextmanager
def _pickle_of(path: Path) -> Iterator[Any]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(inner) as file:
            yield file


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return True
    return any(name.endswith("data.pkl") for name in names) and not any(
        name.endswith("constants.pkl") for name in names
    )
