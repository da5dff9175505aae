"""Reads tensor files of other programs without executing any code in them."""

import argparse
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from mdt_cli.errors import MdtError
from mdt_cli.zip_reader import SMALL, ZIP_FAULTS, check_member, is_zip

# What torch raises for files that are damaged or were never its own.
_FAULTS = (*ZIP_FAULTS, pickle.UnpicklingError, AttributeError, AssertionError, ImportError)
# The part of a checkpoint that is a pickle names its tensors and holds plain values; that of 10,000
# tensors has 2 MB. Each of its bytes may become an object.
MAX_PICKLE_BYTES = 16 << 20
# Instructions that are looked through for the name of what was refused.
_MAX_OPCODES = 1_000_000
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
        packed = file.read(len(_ZIP)) == _ZIP
    if packed and not is_zip(path):
        raise _cut_short(path)
    if packed:
        _check_members(path)
    try:
        with _only_namespace(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except _FAULTS as error:
        if packed and _holds_pickle(path):
            raise _cut_short(path) from error
        if "unexpected EOF" in str(error):
            raise _cut_short(path) from error
        raise MdtError(f"{path} is not a checkpoint saved by torch", _KINDS) from error
    _check_tensors(path, held)
    return held


def _check_members(path: Path) -> None:
    """MdtError for a zip that torch did not write, or whose pickle would fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                check_member(member, path)
    except ZIP_FAULTS as error:
        raise _cut_short(path) from error
    for member in members:
        if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES:
            raise MdtError(
                f"{path} was not read: its pickle {member.filename} has {member.file_size:,} bytes "
                f"beside the tensors, and at most {MAX_PICKLE_BYTES >> 20} MiB are read",
                "save the state dict alone with torch.save, or as .safetensors",
            )
        if member.compress_type != zipfile.ZIP_STORED and "/data" in member.filename:
            raise MdtError(
                f"{path} was packed again: {member.filename} is compressed, and torch stores its "
                "tensors as they are",
                "unpack it and give the file that torch.save wrote",
            )


def _check_tensors(path: Path, held: Any) -> None:
    """MdtError for a tensor that claims more values than the file holds for it."""
    waiting, seen = [held], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.is_meta:
                raise MdtError(f"{path} holds sparse or empty tensors", "save dense tensors")
            if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), SMALL):
                raise MdtError(
                    f"{path} is damaged: it claims {value.numel():,} values for one tensor and "
                    "holds fewer",
                    "fetch it again and compare its size",
                )
        elif isinstance(value, dict | list | tuple | argparse.Namespace) and id(value) not in seen:
            seen.add(id(value))
            inner = vars(value) if isinstance(value, argparse.Namespace) else value
            waiting += inner.values() if isinstance(inner, dict) else inner


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
        with suppress(*ZIP_FAULTS), _pickle_of(path) as file:
            if file.read(1) == b"\x80":
                return MdtError(
                    f"{path} is a pickle of a protocol that cannot be read safely",
                    "save it again with torch.save and its default protocol",
                )
    return MdtError(f"{path} is not a checkpoint saved by torch", _KINDS)


def _forbidden(path: Path) -> Iterator[str]:
    """Functions and classes that the pickle refers to and that are not allowed."""
    texts: list[str] = []
    with suppress(*ZIP_FAULTS), _pickle_of(path) as file:
        while True:
            for opcode, argument, _ in islice(pickletools.genops(file), _MAX_OPCODES):
                name = None
                if opcode.name in ("GLOBAL", "INST"):
                    name = str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    name = ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
                if name is not None and not name.startswith(_HARMLESS):
                    yield name


@contextmanager
def _pickle_of(path: Path) -> Iterator[Any]:
    if not is_zip(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        inner = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if inner is None:
            yield io.BytesIO()
            return
        with archive.open(inner) as file:
            yield file


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_FAULTS:
        return True
    return any(name.endswith("data.pkl") for name in names) and not any(
        name.endswith("constants.pkl") for name in names
    )
