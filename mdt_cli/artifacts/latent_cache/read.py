"""A latent cache as training sees it: facts, and the rows of a batch read from the shards.

Rows are read at their offset in the file. Mapping the shards into memory would be as fast, but
Linux maps whole folios around each row, and the resident memory of a run would grow to the size of
its cache.
"""

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache.format import FLIP, MANIFEST, MEAN, PIXELS, STD
from mdt_cli.artifacts.latent_cache.guarded import (
    GuardedFile,
    damaged,
    first_changed,
    unreadable_file,
)
from mdt_cli.artifacts.latent_cache.manifest import AGAIN, CacheFacts, cache_facts, read_manifest
from mdt_cli.artifacts.tensor_header import TensorFields, read_tensor_header
from mdt_cli.errors import MdtError

# Shards open at the same time: a cache may have more of them than a process may open files.
MAX_OPEN = 128

# safetensors' names -> numpy types (bfloat16 travels as its bits) and torch types.
_STORED: dict[str, tuple[Any, torch.dtype]] = {
    "F16": (np.float16, torch.float16),
    "BF16": (np.int16, torch.bfloat16),
    "F32": (np.float32, torch.float32),
    "U8": (np.uint8, torch.uint8),
}


@dataclass(frozen=True)
class LatentRows:
    """`mean` float32 [B,C,H,W], `std` the same or None (deterministic), `label` int64 [B]."""

    mean: Tensor
    std: Tensor | None
    label: Tensor


@dataclass(frozen=True)
class _Place:
    """Where one tensor of a shard lies in its file."""

    offset: int
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class _ShardFile:
    path: Path
    guard: GuardedFile
    rows: int
    places: dict[str, _Place]
    labels: npt.NDArray[np.int64]


class LatentCache:
    """Rows of a cache; made by `open_cache`. Several threads may read.

    A file that is replaced while the cache is open is noticed at the next read of it.
    """

    def __init__(self, facts: CacheFacts, shards: list[_ShardFile], manifest: GuardedFile) -> None:
        self.facts = facts
        self._manifest = manifest
        self._shards = shards
        # All labels, int64 [count]: eight bytes a row are kept, the latents never.
        self.labels = torch.from_numpy(np.concatenate([shard.labels for shard in shards]))
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + shard.rows)
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._lock = Lock()
        # Whoever drops the cache need not close it.
        weakref.finalize(self, _close_all, self._files)

    def __len__(self) -> int:
        return self.facts.count

    def read(self, rows: Tensor, flip: Tensor | None = None) -> LatentRows:
        """The rows [B] (int64), mirrored where `flip` [B] (bool) says so; no other row is read.

        Pixels come as x/127.5-1. Raises ValueError for a row outside the cache, or for flips of a
        cache that was encoded without them, and MdtError where a shard or the manifest is no longer
        the one that was opened.
        """
        if flip is not None and not self.facts.flip and bool(flip.any()):
            raise ValueError("flipped rows of a cache that was encoded without --flip")
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise ValueError(f"rows outside 0..{len(self) - 1}")
        pixels = self.facts.codec["name"] == PIXELS
        mean = torch.empty(len(rows), *self.facts.latent_shape)
        std = torch.empty_like(mean) if self.facts.stochastic else None
        numbers = rows.numpy()
        mirrored = np.zeros(len(rows), bool) if flip is None else flip.numpy()
        shard_of = np.searchsorted(self._starts, numbers, side="right") - 1
        with self._lock:
            self._manifest.check()
        for shard in np.unique(shard_of).tolist():
            slots = np.flatnonzero(shard_of == shard)
            if pixels:
                values = self._copy(shard, PIXELS, numbers[slots]).float().div_(127.5).sub_(1)
                turned = torch.from_numpy(mirrored[slots])[:, None, None, None]
                mean[slots] = torch.where(turned, values.flip(-1), values)
                continue
            for suffix, wanted in (("", slots[~mirrored[slots]]), (FLIP, slots[mirrored[slots]])):
                if not len(wanted):
                    continue
                mean[wanted] = self._copy(shard, MEAN + suffix, numbers[wanted]).float()
                if std is not None:
                    std[wanted] = self._copy(shard, STD + suffix, numbers[wanted]).float()
        return LatentRows(mean, std, self.labels[rows])

    def _copy(self, shard: int, name: str, numbers: npt.NDArray[np.int64]) -> Tensor:
        place = self._shards[shard].places[name]
        kind, torch_kind = _STORED[place.kind]
        rows = np.empty((len(numbers), *place.shape[1:]), kind)
        bytes_ = rows.reshape(len(rows), -1).view(np.uint8)
        path, guard = self._shards[shard].path, self._shards[shard].guard
        with self._lock:
            try:
                file = self._file(shard)
                for row, number in zip(bytes_, numbers - self._starts[shard], strict=True):
                    file.seek(place.offset + int(number) * row.nbytes)
                    if file.readinto(row.data) != row.nbytes:
                        raise damaged(path, "it became shorter while it was read")
            except OSError as error:
                raise unreadable_file(path, error) from error
            # After the rows: whatever wrote to the file before or meanwhile shows by now.
            if not guard.check():
                self._files.pop(shard).close()
        return torch.from_numpy(rows).view(torch_kind)

    def _file(self, shard: int) -> FileIO:
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = FileIO(self._shards[shard].path)
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close the files; reading again opens them again."""
        with self._lock:
            _close_all(self._files)


def _close_all(files: OrderedDict[int, FileIO]) -> None:
    while files:
        files.popitem()[1].close()


def open_cache(path: Path, verify: bool = False) -> LatentCache:
    """Open a finished cache; sizes, shapes and row counts are checked, with `verify` the checksums.

    Without `verify` the checksum of a shard is compared when rows of it are first read.
    Raises MdtError with what to do for anything but a finished cache of this format.
    """
    manifest, digest = read_manifest(path)
    try:
        facts = cache_facts(manifest, digest)
        listed = [entry for entry in manifest["shards"] if entry["rows"]]
        shards = [_shard(path, entry, facts) for entry in listed]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MdtError(
            f"{path / MANIFEST} is damaged: {type(error).__name__}: {error}", AGAIN
        ) from error
    if sum(shard.rows for shard in shards) != facts.count:
        raise MdtError(f"{path / MANIFEST} is damaged: its shards hold another count", AGAIN)
    if verify:
        bad = first_changed(shard.guard for shard in shards)
        if bad is not None:
            raise damaged(bad, "its checksum does not match the manifest")
    return LatentCache(facts, shards, GuardedFile(path / MANIFEST, digest))


def _shard(folder: Path, entry: dict[str, Any], facts: CacheFacts) -> _ShardFile:
    path, rows = folder / entry["file"], int(entry["rows"])
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise damaged(path, f"it has {size} bytes, not {entry['bytes']}")
        with path.open("rb") as file:
            header, start = read_tensor_header(file, size)
            places = _places(path, header, start, rows, facts)
            file.seek(places.pop("label").offset)
            labels = np.frombuffer(file.read(8 * rows), np.int64).copy()
    except OSError as error:
        raise unreadable_file(path, error) from error
    except ValueError as error:
        raise damaged(path, "its header cannot be read") from error
    return _ShardFile(path, GuardedFile(path, str(entry["sha256"])), rows, places, labels)


def _places(
    path: Path, header: Mapping[str, TensorFields], start: int, rows: int, facts: CacheFacts
) -> dict[str, _Place]:
    """Where the tensors lie that the manifest promises; MdtError if they are not these."""
    names = [PIXELS] if facts.codec["name"] == PIXELS else [MEAN]
    names += [STD] if facts.stochastic else []
    if facts.flip and PIXELS not in names:
        names += [name + FLIP for name in names]
    kind = (
        "U8" if PIXELS in names else {"float16": "F16", "bfloat16": "BF16"}.get(facts.dtype, "F32")
    )
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"label": ("I64", (rows,))}
    expected |= dict.fromkeys(names, (kind, (rows, *facts.latent_shape)))
    places = {}
    for name, (kind, shape) in expected.items():
        found = header.get(name)
        if found is None or (found["dtype"], tuple(found["shape"])) != (kind, shape):
            raise damaged(path, f"{name} should be {kind} {list(shape)}, the manifest says")
        places[name] = _Place(start + found["data_offsets"][0], shape, kind)
    return places
