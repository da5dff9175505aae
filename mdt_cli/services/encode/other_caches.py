"""Latents other projects have already cached: fast-DiT's .npy folders, LightningDiT's shards."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from mdt_cli.errors import MdtError
from mdt_cli.untrusted import read_foreign

LIGHTNING_SHARDS = "latents_rank*_shard*.safetensors"
LIGHTNING_STATS = "latents_stats.pt"
# What fast-DiT multiplies its latents by before it writes them.
FAST_DIT_SCALE = 0.18215


@dataclass(frozen=True)
class CacheRows:
    """Rows of another project's cache, in order.

    `shift` and `scale` per channel are those a codec would have: stored = (z - shift) * scale;
    `scaled` says that the rows are so already.
    """

    kind: str
    rows: int
    shape: tuple[int, int, int]
    flip: bool
    shift: list[float]
    scale: list[float]
    scaled: bool
    digest: str
    files: tuple[Path, ...]
    label_files: tuple[Path, ...] = ()
    starts: tuple[int, ...] = ()

    def read(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor, list[str]]:
        """(latents, mirrored latents or None, labels, names of the rows), after shift and scale.

        Raises MdtError for a file that cannot be read.
        """
        read = _read_npy if self.kind == "fast-dit" else _read_lightning
        latents, mirrored, labels, names = read(self, rows)
        if not self.scaled:
            shift = torch.tensor(self.shift)[:, None, None]
            scale = torch.tensor(self.scale)[:, None, None]
            latents = (latents - shift) * scale
            mirrored = None if mirrored is None else (mirrored - shift) * scale
        return latents, mirrored, labels, names

    @property
    def listing_digest(self) -> str:
        """SHA-256 of the names of the rows, for those who compare the contents."""
        return sha256(
            "\n".join(self.names_of(range(self.rows))).encode("utf-8", "surrogateescape")
        ).hexdigest()

    def names_of(self, rows: Sequence[int]) -> list[str]:
        """Names of the rows: the file, and the row in it where it holds several."""
        if not self.starts:
            return [self.files[row].name for row in rows]
        wanted = np.asarray(rows)
        file_of = np.searchsorted(self.starts, wanted, side="right") - 1
        return [
            f"{self.files[f].name} row {r - self.starts[f]}"
            for f, r in zip(file_of.tolist(), wanted.tolist(), strict=True)
        ]

    def files_of(self, rows: Sequence[int]) -> set[Path]:
        """The files in which the rows and their labels lie."""
        if not self.starts:
            return {held[row] for row in rows for held in (self.files, self.label_files)}
        file_of = np.searchsorted(self.starts, np.asarray(rows), side="right") - 1
        return {self.files[file] for file in np.unique(file_of).tolist()}


def find_features(path: Path) -> CacheRows | None:
    """What features `path` holds; None if it holds none."""
    if not path.is_dir():
        return None
    shards = sorted(path.glob(LIGHTNING_SHARDS))
    if shards:
        return _lightning(path, shards)
    for features in sorted({*path.glob("*_features"), path}):
        labels = features.with_name(features.name.removesuffix("_features") + "_labels")
        if features.name.endswith("_features") and features.is_dir() and labels.is_dir():
            return _fast_dit(features, labels)
    return None


def _fast_dit(features: Path, labels: Path) -> CacheRows:
    files = sorted(features.glob("*.npy"), key=_number)
    label_files = [labels / file.name for file in files]
    missing = next((file for file in label_files if not file.is_file()), None)
    if not files or missing is not None:
        raise MdtError(
            f"{features} holds no .npy files" if not files else f"{missing} is missing",
            "expected fast-DiT's NAME_features/0.npy ... with NAME_labels/0.npy ...",
        )
    first = _npy(files[0])
    shape = first.shape[1:] if first.ndim == 4 and first.shape[0] == 1 else first.shape
    if len(shape) != 3 or first.dtype.kind != "f":
        raise MdtError(
            f"{files[0]} holds {first.dtype} {list(first.shape)}",
            "expected one latent, floating-point [1,C,H,W]",
        )
    return CacheRows(
        kind="fast-dit",
        rows=len(files),
        shape=shape,
        flip=False,
        shift=[0.0] * shape[0],
        scale=[FAST_DIT_SCALE] * shape[0],
        scaled=True,
        digest=_digest([*files, *label_files]),
        files=tuple(files),
        label_files=tuple(label_files),
    )


def _lightning(path: Path, shards: Sequence[Path]) -> CacheRows:
    starts, shapes, flips = [0], set(), set()
    for file in shards:
        with _opened(file) as shard:
            names = set(shard.keys())
            if not {"latents", "labels"} <= names:
                raise MdtError(
                    f"{file} holds {', '.join(sorted(names))}", "expected latents and labels"
                )
            rows, *shape = shard.get_slice("latents").get_shape()
        starts.append(starts[-1] + rows)
        shapes.add(tuple(shape))
        flips.add("latents_flip" in names)
    if len(shapes) > 1 or len(flips) > 1:
        raise MdtError(
            f"the shards of {path} differ in shape ({sorted(shapes)}) or in mirrored copies",
            "give the shards of one data set",
        )
    (shape,) = shapes
    features = CacheRows(
        kind="lightning-dit",
        rows=starts[-1],
        shape=shape,
        flip=flips == {True},
        shift=[0.0] * shape[0],
        scale=[1.0] * shape[0],
        scaled=True,
        digest=_digest(shards),
        files=tuple(shards),
        starts=tuple(starts),
    )
    mean, std = _lightning_statistics(path, features)
    return replace(features, shift=mean, scale=[1 / value for value in std], scaled=False)


def _lightning_statistics(path: Path, features: CacheRows) -> tuple[list[float], list[float]]:
    """Mean and std per channel: LightningDiT's own file, or counted over all rows."""
    stats, channels = path / LIGHTNING_STATS, features.shape[0]
    if stats.is_file():
        stored = read_foreign(stats)
        found = [stored.get(key) for key in ("mean", "std")] if isinstance(stored, dict) else []
        tensors = [value for value in found if isinstance(value, Tensor) and value.dim() < 5]
        if len(tensors) != 2:
            raise MdtError(
                f"{stats} cannot be read: it is no dict of the tensors mean and std",
                "remove the file: without it they are counted",
            )
        mean, std = (tensor.double().flatten().tolist() for tensor in tensors)
        if len(mean) != channels or len(std) != channels or not min(std) > 0:
            raise MdtError(f"{stats} is not for latents of {channels} channels", "remove the file")
        return mean, std
    count = features.rows * features.shape[1] * features.shape[2]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, features.rows, 1024):
        latents, *_ = features.read(range(start, min(start + 1024, features.rows)))
        values = latents.double().numpy()
        total += values.sum(axis=(0, 2, 3))
        squares += np.square(values).sum(axis=(0, 2, 3))
    mean_C = total / count
    std_C = np.sqrt(np.maximum(squares / count - mean_C**2, 0))
    return mean_C.tolist(), np.where(std_C > 0, std_C, 1).tolist()


def _read_npy(features: CacheRows, rows: Sequence[int]) -> tuple[Tensor, None, Tensor, list[str]]:
    latents = torch.empty(len(rows), *features.shape)
    labels = torch.empty(len(rows), dtype=torch.int64)
    for slot, row in enumerate(rows):
        value, label = _npy(features.files[row]), _npy(features.label_files[row])
        if value.size != latents[slot].numel() or label.size != 1:
            raise MdtError(
                f"{features.files[row]} holds {list(value.shape)} with label {list(label.shape)}",
                f"expected one latent of {list(features.shape)} and one label",
            )
        latents[slot] = torch.from_numpy(value.reshape(features.shape).astype(np.float32))
        labels[slot] = int(label.reshape(()))
    return latents, None, labels, features.names_of(rows)


def _read_lightning(
    features: CacheRows, rows: Sequence[int]
) -> tuple[Tensor, Tensor | None, Tensor, list[str]]:
    wanted = np.asarray(rows)
    latents = torch.empty(len(rows), *features.shape)
    mirrored = torch.empty_like(latents) if features.flip else None
    labels = torch.empty(len(rows), dtype=torch.int64)
    file_of = np.searchsorted(features.starts, wanted, side="right") - 1
    for file in np.unique(file_of).tolist():
        slots = np.flatnonzero(file_of == file)
        inner = torch.from_numpy(wanted[slots] - features.starts[file])
        with _opened(features.files[file]) as shard:
            latents[slots] = shard.get_tensor("latents")[inner].float()
            labels[slots] = shard.get_tensor("labels").flatten()[inner].long()
            if mirrored is not None:
                mirrored[slots] = shard.get_tensor("latents_flip")[inner].float()
    return latents, mirrored, labels, features.names_of(rows)


def _opened(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, "pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise MdtError(f"{path} cannot be read: {error}", "copy or download it again") from error


def _npy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MdtError(f"{path} cannot be read: {error}", "extract it again") from error


def _number(path: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", path.stem)
    return (int(digits) if digits else -1, path.name)


def _digest(files: Sequence[Path]) -> str:
    state = sha256()
    for file in files:
        state.update(f"{file.parent.name}/{file.name}\0{file.stat().st_size}\n".encode())
    return state.hexdigest()
