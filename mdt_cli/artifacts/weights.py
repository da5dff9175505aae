"""Tensor files with a JSON header, and the checkpoint folders made of them. Nothing is a pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdt_cli.artifacts.data_schema import DataFields
from mdt_cli.artifacts.foreign_weights import how_to_import
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import parse_json
from mdt_cli.schema import check_schema
from mdt_cli.text import shortened

FORMAT = 1
ONLINE = "online"


@dataclass(frozen=True)
class Header:
    """What a weights file says of itself: enough for every later stage.

    config: the resolved run configuration. data: the facts of the latent cache. step: optimizer
    steps behind the weights, earlier stages not counted. ema: a decay, or "online".
    """

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    step: int
    ema: str
    stage: str

    def metadata(self) -> dict[str, str]:
        """As safetensors metadata, which maps strings to strings."""
        return {
            "format": "pt",
            "mdt.format": str(FORMAT),
            "mdt.config": json.dumps(self.config, ensure_ascii=False),
            "mdt.data": json.dumps(self.data, ensure_ascii=False),
            "mdt.step": str(self.step),
            "mdt.ema": self.ema,
            "mdt.stage": self.stage,
        }


def save_weights(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write contiguous CPU copies of `tensors`."""
    save_tensors(path, tensors, header.metadata())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file of which equal content makes equal bytes. OSError where it cannot be."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata)
        _sort_metadata(path)
    except SafetensorError as error:
        # The library reports a full disk or a forbidden path as its own error, errno in its text.
        number = next((n for n in (28, 13, 30) if f"os error {n}" in str(error)), 5)
        raise OSError(number, str(error)) from error


def _sort_metadata(path: Path) -> None:
    """Put the metadata in order: safetensors writes it in a random one, and equal weights with
    equal headers should be equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > length:
            raise ValueError(f"{path}: a sorted header of {len(ordered)} bytes, not {length}")
        file.seek(8)
        file.write(ordered.ljust(length))


def read_header(path: Path) -> Header:
    """The header of a weights file. MdtError if it is no weights file of ours or cut short."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise MdtError(f"no such file: {path}") from error
    except (SafetensorError, OSError) as error:
        raise MdtError(f"{path} is not a complete safetensors file: {error}") from error
    if "mdt.config" not in metadata:
        raise MdtError(
            f"{path} was not written by mdt: it has no configuration in its header",
            how_to_import(path),
        )
    if (number := metadata.get("mdt.format")) != str(FORMAT):
        raise MdtError(
            f"{path} has weights format {shortened(str(number))}; this mdt reads {FORMAT}",
            "use the mdt version that wrote it",
        )
    try:
        config, data = parse_json(metadata["mdt.config"]), parse_json(metadata["mdt.data"])
        check_schema(dict[str, Any], config)
        check_schema(DataFields, data)
        return Header(config, data, _step(metadata), metadata["mdt.ema"], metadata["mdt.stage"])
    except KeyError as error:
        raise MdtError(f"the header of {path} is damaged: it has no {error.args[0]}") from error
    except ValueError as error:
        raise MdtError(f"the header of {path} is damaged: {error}") from error


def _step(metadata: Mapping[str, str]) -> int:
    text = metadata["mdt.step"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"mdt.step: it is no number of steps: {shortened(text)}")
    return int(text)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. MdtError if it is cut short or holds NaN."""
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned: the file may be replaced while a mapped tensor would still point into it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise MdtError(f"{path} is not a complete safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise MdtError(f"{path}: {name} holds NaN or infinity", "use an earlier checkpoint")
    return tensors


def fit_report(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """What keeps `theirs` from being loaded into `ours`, a line each; empty if nothing does."""
    lines = [f"missing: {name}" for name in ours if name not in theirs]
    lines += [f"unexpected: {name}" for name in theirs if name not in ours]
    lines += [
        f"{name} has shape {list(theirs[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape != tensor.shape
    ]
    return lines
