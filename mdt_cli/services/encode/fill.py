"""Filling a cache folder: finished shards stay, processes share the rest, the manifest is last."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache import write as shards
from mdt_cli.artifacts.latent_cache.format import (
    MANIFEST,
    PLAN,
    refuse_little_space,
    refuse_other_plan,
    versions,
)
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.latent_cache.write import DTYPES
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.files import write_json
from mdt_cli.services.events import CacheDone, CacheShareDone, Event, Note, Progress, Warned
from mdt_cli.services.work import Share

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_FOR_PLAN = 600.0


@dataclass(frozen=True)
class Counted:
    """`items` more of the current shard are done; `content` once all of them are."""

    items: int
    content: shards.Content | None = None


# Makes the given shards, in order, telling of every few items.
Produce = Callable[[Sequence[range]], Generator[Counted, None, None]]


def fill(
    folder: Path,
    plan: dict[str, Any],
    classes: tuple[str, ...] | None,
    produce: Produce,
    share: Share,
    strict: bool,
) -> Iterator[Event]:
    """Write what is missing of the cache `folder`; the last event is CacheDone.

    `classes` None: as many as the labels need. Where not a single shard came about, nothing stays.
    """
    before = shards.begun(folder)
    unchanged = before is not None and "shards" in before
    if before is not None:
        refuse_other_plan(folder, before, plan)
    spans = shards.spans(plan)
    mine = range(share.rank, len(spans), share.of)
    kept = shards.finished_shards(folder, mine) if before is not None else {}
    todo = [index for index in mine if index not in kept]
    refuse_little_space(folder, plan, [spans[index] for index in todo])
    if before is None:
        _begin(folder, plan, share)
    elif kept and todo:
        yield Note(f"{len(kept)} of {len(mine)} shards are finished and whole; going on")
    if unchanged and todo:
        yield Warned(f"{len(todo)} shards of {folder} are damaged and are made again")
    done, total = sum(len(spans[k]) for k in kept), sum(len(spans[k]) for k in mine)
    if strict:
        _refuse_skipped(list(kept.values()))
    try:
        if todo:
            yield Progress(done, total)
        waiting = iter(todo)
        with closing(produce([spans[index] for index in todo])) as steps:
            for step in steps:
                if step.items:
                    done += step.items
                    yield Progress(done, total)
                if step.content is not None:
                    index = next(waiting)
                    kept[index] = shards.write_shard(folder, index, step.content)
    except Stopped as stopped:
        raise Stopped(
            stopped.signum,
            f"{len(kept)} of {len(mine)} shards are finished in {folder}; "
            "run the same command again to go on.",
        ) from None
    finally:
        # A signal may come when a shard is written, but not yet counted: look at the files.
        if not kept and todo and share.of == 1 and not any(folder.glob("shard-*")):
            shards.abandon(folder)
    if share.rank:
        yield CacheShareDone(str(folder), share.rank, len(mine))
        return
    others = _wait_for_others(folder, len(spans), kept)
    whole = kept | others
    if not any(shard.rows for shard in whole.values()):
        entry = whole[0].skipped[0]
        shards.abandon(folder)
        raise MdtError(
            f"none of the {plan['source']['items']} images could be read; "
            f"the first: {entry['name']}: {entry['reason']}",
            "give images that Pillow can open",
        )
    if before is not None and shards.are_those_of(before, whole.values()):
        # A repair: with other versions in its manifest the cache would be another one.
        shards.remove_records(folder)
    elif not unchanged or any(folder.glob("shard-*.json")):
        if unchanged:
            yield Warned(
                f"not all shards made again have their old bytes: {folder} is another cache now, "
                "and runs that were trained on it cannot go on"
            )
        shards.write_manifest(folder, plan, whole.values(), classes, versions(plan))
    yield from _finish(folder, unchanged and not todo)


def verify(folder: Path) -> Iterator[Event]:
    """Compare all checksums of a finished cache; the last event is CacheDone."""
    open_cache(folder, verify=True)
    yield from _finish(folder, unchanged=True)


def _finish(folder: Path, unchanged: bool) -> Iterator[Event]:
    facts = open_cache(folder).facts
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    skipped = tuple((entry["name"], entry["reason"]) for entry in manifest["skipped"])
    without = [n for n, k in zip(facts.class_names, facts.class_counts, strict=True) if not k]
    if without:
        yield Warned(
            f"{len(without)} of {facts.num_classes} classes have no image: {_some(without)}"
        )
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _begin(folder: Path, plan: dict[str, Any], share: Share) -> None:
    """The first process writes the plan; the others wait until they see the same one."""
    if share.rank == 0:
        write_json(folder / PLAN, plan)
        return
    deadline = time.monotonic() + SECONDS_FOR_PLAN
    while (before := shards.begun(folder)) is None:
        if time.monotonic() > deadline:
            raise MdtError(
                f"process {share.rank} waited {SECONDS_FOR_PLAN:.0f} s for {folder / PLAN}",
                "every process must see the same folder",
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    refuse_other_plan(folder, before, plan)


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


def stored(values: Tensor, dtype: str, names: Sequence[str]) -> Tensor:
    """`values` on the CPU in the cache's dtype. Raises MdtError where that loses a value."""
    values = values.cpu()
    stored = values.to(DTYPES[dtype])
    if not bool(torch.isfinite(stored).all()):
        bad = int((~torch.isfinite(stored)).flatten(1).any(1).nonzero()[0])
        if bool(torch.isfinite(values[bad]).all()):
            raise MdtError(
                f"a latent of {printable(names[bad])} is too large for {dtype}",
                "run again with --dtype float32 and a new folder",
            )
        raise MdtError(
            f"the codec makes NaN or infinity of {printable(names[bad])}",
            "its weights or its scale are broken: try another codec",
        )
    return stored


def printable(name: str) -> str:
    """A file name that is no valid Unicode, written so that JSON and terminals take it."""
    return name.encode("utf-8", "backslashreplace").decode()


def _refuse_skipped(found: Sequence[shards.Shard]) -> None:
    for shard in found:
        for entry in shard.skipped:
            raise unreadable(entry["name"], entry["reason"])


def unreadable(name: str, reason: str) -> MdtError:
    return MdtError(
        f"{name} cannot be read: {reason}", "repair or remove it, or leave out --strict to skip it"
    )
