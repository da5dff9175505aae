"""Writing a latent cache: a plan, shards with a record each, and the manifest last.

The plan decides every byte that follows: the images, the codec, the size, the rows per shard.
Shard k holds the readable ones of the items k*R .. k*R+R-1, so no shard depends on another, and any
process may write any of them.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache.format import (
    FORMAT,
    MANIFEST,
    PIXELS,
    PLAN,
    VERSION,
    Plan,
)
from mdt_cli.artifacts.latent_cache.schema import ManifestFields, PlanFields, ShardRecord
from mdt_cli.artifacts.latent_cache.sources import contents_facts, write_contents
from mdt_cli.artifacts.latent_cache.sums import channel_sums
from mdt_cli.artifacts.weights import save_tensors
from mdt_cli.errors import MdtError
from mdt_cli.files import TEMPORARY, atomic_path, is_bystander, sha256_of, write_json
from mdt_cli.json_reader import MAX_LISTING_BYTES, read_json
from mdt_cli.schema import check_schema

START_AGAIN = "delete the cache and encode again"
# What a record has of a shard and its entry in a manifest has not.
OF_RECORDS = ("skipped", "contents", "marks")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Shard:
    """The record of one finished shard; `file` is None where no image of it was readable."""

    index: int
    file: str | None
    rows: int
    bytes: int
    sha256: str
    class_counts: dict[str, int]
    # Per channel, over the rows: sum of the latents, and of their squares (variance included).
    sums: list[float]
    squares: list[float]
    modes: dict[str, int]
    enlarged: int
    skipped: list[dict[str, str]]
    # Of each item of the shard, "" where nothing could be read; version 0.1 recorded none. A
    # manifest has them in a file of their own.
    contents: list[str] = field(default_factory=list)
    # Size and times of the source files, from before they were read.
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """Rows of a shard that is to be written: `tensors` share their first axis with `labels`.

    `contents` are the SHA-256 of all items of the shard, the skipped ones too; `marks` those of
    their files, from before they were read.
    """

    tensors: dict[str, Tensor]
    labels: Tensor
    modes: dict[str, int]
    enlarged: int
    skipped: list[dict[str, str]]
    contents: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)


def spans(plan: Plan) -> list[range]:
    """The items of each shard."""
    items, rows = plan["source"]["items"], plan["shard_rows"]
    return [range(start, min(start + rows, items)) for start in range(0, items, rows)]


def write_shard(folder: Path, index: int, content: Content) -> Shard:
    """Write the shard and then its record, each completely or not at all."""
    rows = len(content.labels)
    name, digest, size = None, "", 0
    if rows:
        name = f"shard-{index:05d}.safetensors"
        with atomic_path(folder / name) as temporary:
            save_tensors(
                temporary,
                {**content.tensors, "label": content.labels},
                {"mdt.format": f"{FORMAT} {VERSION}"},
            )
            digest, size = sha256_of(temporary), temporary.stat().st_size
    numbers, counts = torch.unique(content.labels, return_counts=True)
    sums, squares = channel_sums(content.tensors)
    shard = Shard(
        index=index,
        file=name,
        rows=rows,
        bytes=size,
        sha256=digest,
        class_counts={str(k): n for k, n in zip(numbers.tolist(), counts.tolist(), strict=True)},
        sums=sums,
        squares=squares,
        modes=dict(sorted(content.modes.items())),
        enlarged=content.enlarged,
        skipped=content.skipped,
        contents=content.contents,
        marks=content.marks,
    )
    write_json(_record_path(folder, index), asdict(shard))
    return shard


def finished_shard(folder: Path, index: int) -> Shard | None:
    """The record of a shard that was written earlier and still has its checksum, else None."""
    shard = _record(folder, index)
    if shard is None or shard.file is None:
        return shard
    path = folder / shard.file
    try:
        intact = path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256
    except OSError:
        return None
    return shard if intact else None


def finished_shards(folder: Path, indices: Iterable[int]) -> dict[int, Shard]:
    """By index, the shards whose file has its recorded size and SHA-256, or that need no file.

    Files are read in full, by eight threads.
    """
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda index: finished_shard(folder, index), indices)
        return {shard.index: shard for shard in found if shard is not None}


def begun(folder: Path) -> dict[str, Any] | None:
    """The plan that a cache at `folder` was started with; None where there is none yet.

    Raises MdtError for a folder that holds something else.
    """
    for name in (MANIFEST, PLAN):
        try:
            data = _read(folder / name)
            # Another version is refused by name where its plan is compared.
            if data.get("version") == VERSION:
                check_schema(ManifestFields if name == MANIFEST else PlanFields, data)
            return data
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise MdtError(f"{folder / name} is damaged: {error}", START_AGAIN) from error
    if folder.exists() and not folder.is_dir():
        raise MdtError(f"{folder} is a file, not a folder for a cache", "choose another path")
    if folder.is_dir() and any(not is_bystander(e.name) for e in folder.iterdir()):
        raise MdtError(
            f"{folder} is not empty and holds no latent cache", "choose a new or empty folder"
        )
    return None


def write_manifest(
    folder: Path,
    plan: Plan,
    shards: Iterable[Shard],
    classes: tuple[str, ...] | None,
    versions: Mapping[str, str],
    contents: bytes | None = None,
) -> None:
    """Write the manifest, then drop the plan and the records, which it now holds.

    `classes` None: as many as the labels need, named by number. `contents` is the text of the file
    of contents, None for a cache that records none.
    """
    if contents is not None:
        write_contents(folder, contents)
    shards = sorted(shards, key=lambda shard: shard.index)
    counts: dict[int, int] = {}
    modes: dict[str, int] = {}
    for shard in shards:
        for label, number in shard.class_counts.items():
            counts[int(label)] = counts.get(int(label), 0) + number
        for mode, number in shard.modes.items():
            modes[mode] = modes.get(mode, 0) + number
    if classes is None:
        classes = tuple(str(k) for k in range(max(counts) + 1))
    mean, std = _statistics(shards, plan)
    manifest = {
        **plan,
        "num_classes": len(classes),
        "classes": [{"name": name, "count": counts.get(k, 0)} for k, name in enumerate(classes)],
        "count": sum(shard.rows for shard in shards),
        "latent_mean": mean,
        "latent_std": std,
        "modes": dict(sorted(modes.items())),
        "enlarged": sum(shard.enlarged for shard in shards),
        "skipped": [{**entry, "shard": shard.index} for shard in shards for entry in shard.skipped],
        "shards": [
            {key: value for key, value in asdict(shard).items() if key not in OF_RECORDS}
            for shard in shards
        ],
        **({} if contents is None else {"contents": contents_facts(contents)}),
        "versions": dict(versions),
    }
    write_json(folder / MANIFEST, manifest)
    remove_records(folder)


def abandon(folder: Path) -> None:
    """Remove an unfinished cache without any shard, and its folder."""
    remove_records(folder)
    with suppress(OSError):
        folder.rmdir()


def are_those_of(manifest: Plan, shards: Iterable[Shard], contents: bytes | None) -> bool:
    """Whether a manifest, or a plan that has none of them yet, lists files of the same bytes."""
    if manifest.get("contents") != (None if contents is None else contents_facts(contents)):
        return False
    listed = [(entry["file"], entry["sha256"]) for entry in manifest.get("shards", ())]
    found = sorted(shards, key=lambda shard: shard.index)
    return listed == [(shard.file, shard.sha256) for shard in found]


def remove_records(folder: Path) -> None:
    """What is needed until there is a manifest."""
    for leftover in [*folder.glob("shard-*.json"), *folder.glob(f"{TEMPORARY}*"), folder / PLAN]:
        leftover.unlink(missing_ok=True)


def _record_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.json"


def _record(folder: Path, index: int) -> Shard | None:
    try:
        record = _read(_record_path(folder, index))
        check_schema(ShardRecord, record)
        return Shard(**record)
    except (FileNotFoundError, TypeError, ValueError):
        pass
    try:
        manifest = check_schema(ManifestFields, _read(folder / MANIFEST))
        skipped = [
            {"name": entry["name"], "reason": entry["reason"]}
            for entry in manifest["skipped"]
            if entry["shard"] == index
        ]
        return Shard(**manifest["shards"][index], skipped=skipped)
    except (FileNotFoundError, LookupError, TypeError, ValueError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, MAX_LISTING_BYTES)
    except ValueError as error:
        raise MdtError(f"{path} is damaged: {error}", START_AGAIN) from error
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    if not isinstance(data, dict):
        raise MdtError(f"{path} is damaged: not an object", START_AGAIN)
    return data


def _statistics(shards: list[Shard], plan: Plan) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the latents per channel, the posterior's spread included."""
    _, height, width = plan["latent_shape"]
    values = sum(shard.rows for shard in shards) * height * width
    written = [shard for shard in shards if shard.rows]
    mean = np.sum([shard.sums for shard in written], axis=0) / values
    square = np.sum([shard.squares for shard in written], axis=0) / values
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if plan["codec"]["name"] == PIXELS:
        mean, std = mean / 127.5 - 1, std / 127.5
    return mean.tolist(), std.tolist()
