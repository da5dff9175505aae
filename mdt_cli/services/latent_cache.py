"""Filling a cache folder: what is finished is kept, processes share the rest, the manifest is last."""

import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli.core.data import shards
from mdt_cli.core.data.latents import open_cache
from mdt_cli.core.files import write_json
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.services.events import CacheDone, CacheShareDone, Event, Note, Progress, Warned

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_FOR_PLAN = 600.0
# Part of the free space that a cache may fill by estimate: compression of file systems and other
# writers are not known.
SPACE_TO_SPARE = 0.98


@dataclass(frozen=True)
class Counted:
    """`items` more of the current shard are done; `content` once all of them are."""

    items: int
    content: shards.Content | None = None


# Makes the given shards, in order, telling of every few items.
Produce = Callable[[Sequence[range]], Iterator[Counted]]


@dataclass(frozen=True)
class Share:
    """Which of the shards are this process's: every `of`-th from `rank`."""

    rank: int
    of: int

    @classmethod
    def from_environment(cls) -> "Share":
        """What torchrun and accelerate launch set; one process without them."""
        rank, of = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return cls(rank, of)


def make_plan(
    *,
    codec: dict[str, Any],
    image_size: int,
    latent_shape: tuple[int, int, int],
    stochastic: bool,
    flip: bool,
    dtype: str,
    classes: Sequence[str] | None,
    kind: str,
    items: int,
    digest: str,
    shard_rows: int | None,
    crop: str | None,
) -> dict[str, Any]:
    """Everything that decides the bytes of a cache, as JSON."""
    pixels = codec["name"] == shards.PIXELS
    return {
        "format": shards.FORMAT,
        "version": shards.VERSION,
        "codec": codec,
        "image_size": image_size,
        "crop": crop,
        "latent_shape": list(latent_shape),
        "stochastic": stochastic,
        "flip": flip,
        "dtype": "uint8" if pixels else dtype,
        "labelled": classes is None or len(classes) > 0,
        "source": {"kind": kind, "items": items, "digest": digest},
        "shard_rows": shard_rows or _shard_rows(_row_bytes(latent_shape, stochastic, flip, dtype)),
    }


def fill(
    folder: Path,
    plan: dict[str, Any],
    classes: tuple[str, ...] | None,
    produce: Produce,
    share: Share,
    strict: bool,
) -> Iterator[Event]:
    """Write what is missing of the cache `folder`; the last event is CacheDone."""
    before = shards.begun(folder)
    unchanged = before is not None and "shards" in before
    if before is not None:
        _refuse_other_plan(folder, before, plan)
    spans = shards.spans(plan)
    mine = range(share.rank, len(spans), share.of)
    kept = shards.finished_shards(folder, mine) if before is not None else {}
    todo = [index for index in mine if index not in kept]
    _refuse_little_space(folder, plan, [spans[index] for index in todo])
    if before is None:
        _begin(folder, plan, share)
    elif kept and todo:
        yield Note(f"{len(kept)} of {len(mine)} shards are finished and whole; going on")
    if unchanged and todo:
        yield Warned(f"{len(todo)} shards of {folder} are damaged and are made again")
    done, total = sum(len(spans[k]) for k in kept), sum(len(spans[k]) for k in mine)
    if strict:
        _refuse_skipped([shard for shard in kept.values()])
    try:
        yield Progress(done, total)
        yielded = produce([spans[index] for index in todo])
        for index in todo:
            for step in yielded:
                done += step.items
                yield Progress(done, total)
                if step.content is not None:
                    kept[index] = shards.write_shard(folder, index, step.content)
                    break
    except Stopped as stopped:
        raise Stopped(
            stopped.signum,
            f"{len(kept)} of {len(mine)} shards are finished in {folder}; "
            "run the same command again to go on.",
        ) from None
    if share.rank:
        yield CacheShareDone(str(folder), share.rank, len(mine))
        return
    others = _wait_for_others(folder, len(spans), kept)
    whole = kept | others
    if not any(shard.rows for shard in whole.values()):
        entry = whole[0].skipped[0]
        raise MdtError(
            f"none of the {plan['source']['items']} images could be read; "
            f"the first: {entry['name']}: {entry['reason']}",
            f"nothing was cached; remove {folder} before another try",
        )
    if not unchanged or todo:
        shards.write_manifest(folder, plan, whole.values(), classes, _versions(plan))
    yield from _finish(folder, unchanged and not todo)


def _finish(folder: Path, unchanged: bool) -> Iterator[Event]:
    facts = open_cache(folder).facts
    manifest = json.loads((folder / shards.MANIFEST).read_text("utf-8"))
    skipped = tuple((entry["name"], entry["reason"]) for entry in manifest["skipped"])
    without = [n for n, k in zip(facts.class_names, facts.class_counts, strict=True) if not k]
    if without:
        yield Warned(f"classes without a single image: {', '.join(without[:10])}")
    if manifest["enlarged"]:
        yield Note(
            f"{manifest['enlarged']} of {facts.count} images are smaller than "
            f"{facts.image_size} pixels and were enlarged"
        )
    yield CacheDone(
        path=str(folder),
        count=facts.count,
        class_names=facts.class_names,
        class_counts=facts.class_counts,
        codec=facts.codec.get("id") or facts.codec["name"],
        image_size=facts.image_size,
        latent_shape=facts.latent_shape,
        modes=manifest["modes"],
        enlarged=manifest["enlarged"],
        skipped=skipped,
        bytes=sum(entry["bytes"] for entry in manifest["shards"]),
        digest=facts.digest,
        unchanged=unchanged,
    )


def _begin(folder: Path, plan: dict[str, Any], share: Share) -> None:
    """The first process writes the plan; the others wait until they see the same one."""
    if share.rank == 0:
        write_json(folder / shards.PLAN, plan)
        return
    deadline = time.monotonic() + SECONDS_FOR_PLAN
    while (before := shards.begun(folder)) is None:
        if time.monotonic() > deadline:
            raise MdtError(
                f"process {share.rank} waited {SECONDS_FOR_PLAN:.0f} s for {folder / shards.PLAN}",
                "every process must see the same folder",
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    _refuse_other_plan(folder, before, plan)


def _wait_for_others(
    folder: Path, count: int, kept: dict[int, shards.Shard]
) -> dict[int, shards.Shard]:
    """The shards of the other processes, as their files appear and match their checksums."""
    found: dict[int, shards.Shard] = {}
    while missing := [k for k in range(count) if k not in kept and k not in found]:
        found |= shards.finished_shards(folder, missing)
        if len(found) + len(kept) < count:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return found


def _refuse_other_plan(folder: Path, before: dict[str, Any], plan: dict[str, Any]) -> None:
    if before.get("version") != plan["version"]:
        raise MdtError(
            f"{folder} is a cache of format number {before.get('version')}, "
            f"this version of mdt writes {plan['version']}",
            "choose a new folder",
        )
    for key, value in plan.items():
        old = before.get(key)
        if old == value:
            continue
        if key == "source":
            counts = f"{(old or {}).get('items')} then, {value['items']} now"
            raise MdtError(
                f"{folder} was made from other images ({counts})",
                "added, removed or changed images are a new cache: choose a new folder",
            )
        if key == "codec":
            ways = [str(facts.get("id") or facts.get("name")) for facts in (old or {}, value)]
            if ways[0] == ways[1]:
                ways = [
                    f"{w} {f.get('weights_sha256', '')[:12]}" for w, f in zip(ways, (old, value))
                ]
            old, value = ways
        raise MdtError(
            f"{folder} was begun with {key} {old}, not {value}",
            "choose a new folder, or run the command that it was begun with",
        )


def _refuse_skipped(found: Sequence[shards.Shard]) -> None:
    for shard in found:
        for entry in shard.skipped:
            raise unreadable(entry["name"], entry["reason"])


def unreadable(name: str, reason: str) -> MdtError:
    return MdtError(
        f"{name} cannot be read: {reason}", "repair or remove it, or leave out --strict to skip it"
    )


def _refuse_little_space(folder: Path, plan: dict[str, Any], todo: Sequence[range]) -> None:
    row = _row_bytes(plan["latent_shape"], plan["stochastic"], plan["flip"], plan["dtype"])
    needed = row * sum(len(span) for span in todo)
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free * SPACE_TO_SPARE:
        raise MdtError(
            f"the cache needs {needed / 2**30:.2f} GiB and {place} has {free / 2**30:.2f} GiB free",
            "choose another disk, a smaller --size, no --flip, or --limit",
        )


def _row_bytes(shape: Sequence[int], stochastic: bool, flip: bool, dtype: str) -> int:
    channels, height, width = shape
    values = channels * height * width
    if dtype == "uint8":
        return values + 8
    copies = (1 + stochastic) * (1 + flip)
    return values * copies * shards.DTYPES[dtype].itemsize + 8


def estimate(plan: dict[str, Any]) -> int:
    """Bytes on disk of the whole cache."""
    row = _row_bytes(plan["latent_shape"], plan["stochastic"], plan["flip"], plan["dtype"])
    return row * int(plan["source"]["items"])


def _shard_rows(row_bytes: int) -> int:
    """A power of two from 16 to 2048, so that a shard is at most 128 MiB where that is possible.

    It cannot depend on the number of processes: the same images give the same files.
    """
    rows = 2048
    while rows > 16 and rows * row_bytes > 128 << 20:
        rows //= 2
    return rows


def _versions(plan: dict[str, Any]) -> dict[str, str]:
    names = ["torch", "numpy", "pillow", "safetensors"]
    if plan["codec"]["name"] != shards.PIXELS:
        names.append("diffusers")
    return {name: importlib.metadata.version(name) for name in names}
