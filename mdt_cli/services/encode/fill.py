"""Filling a cache folder: intact shards stay, processes share the rest, the manifest comes last."""

import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache.format import (
    PLAN,
    refuse_little_space,
    refuse_other_plan,
    versions,
)
from mdt_cli.artifacts.latent_cache.manifest import read_manifest
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.latent_cache.sources import read_contents, write_marks
from mdt_cli.artifacts.latent_cache.write import (
    DTYPES,
    Content,
    Shard,
    abandon,
    are_those_of,
    begun,
    finished_shards,
    remove_records,
    spans,
    write_manifest,
    write_shard,
)
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.files import write_json
from mdt_cli.services.encode.content_record import ContentRecord
from mdt_cli.services.encode.origin import Origin, difference
from mdt_cli.services.events import CacheDone, CacheShareDone, Event, Note, Progress, Warned
from mdt_cli.services.meeting import Meeting
from mdt_cli.services.work import SECONDS_BETWEEN_POLLS, Share, poll

SECONDS_FOR_PLAN = 600.0


class Filling:
    """What one process writes of the cache `folder`: the shards of its share that are missing.

    `begin`, then `write` a Content for each of `missing` within `with filling`, then `finish`.
    """

    def __init__(
        self, folder: Path, plan: dict[str, Any], share: Share, strict: bool, origin: Origin
    ) -> None:
        """Compare with what is in the folder. Raises MdtError where that is another cache."""
        self._folder, self._plan, self._share = folder, plan, share
        self._before = begun(folder)
        if self._before is not None:
            refuse_other_plan(folder, self._before, plan, partial(_difference, folder, origin))
        self._meeting = Meeting(share, folder, is_folder=True)
        self._spans = spans(plan)
        self._mine = share.mine(len(self._spans))
        self._kept = finished_shards(folder, self._mine) if self._before is not None else {}
        self._images = ContentRecord(folder, plan, origin, self._spans)
        if not self._was_finished:
            whole = self._kept.items()
            self._kept = {k: shard for k, shard in whole if self._images.is_complete(shard)}
        # Shards still to be written and the items of each, in order.
        self.missing = [(k, self._spans[k]) for k in self._mine if k not in self._kept]
        self._total = sum(len(self._spans[k]) for k in self._mine)
        self._done = sum(len(self._spans[k]) for k in self._kept)
        refuse_little_space(folder, plan, [span for _, span in self.missing])
        if strict:
            _refuse_skipped(list(self._kept.values()))

    @property
    def _was_finished(self) -> bool:
        return self._before is not None and "shards" in self._before

    def begin(self) -> Iterator[Event]:
        """Write the plan, or report what is kept of an earlier run.

        Raises MdtError where an image that was encoded before has other content now.
        """
        if self._before is not None:
            yield from self._images.compare(self._before, self._mine, self._kept)
        self._images.look(index for index, _ in self.missing)
        if self.missing:
            yield from self._meeting.wait_for_first()
        if self._before is None:
            _begin(self._folder, self._plan, self._share)
        elif self._kept and self.missing:
            yield Note(f"{len(self._kept)} of {len(self._mine)} shards are intact; resuming")
        if self._was_finished and self.missing:
            yield Warned(
                f"{len(self.missing)} shards of {self._folder} are damaged and are re-encoded"
            )
        if self.missing:
            yield self.advance(0)

    def advance(self, items: int) -> Progress:
        """The progress once `items` more items are done."""
        self._done += items
        return Progress(self._done, self._total)

    def write(self, index: int, content: Content) -> None:
        """Write shard `index`, complete or not at all."""
        content = self._images.added_to(index, content)
        self._kept[index] = write_shard(self._folder, index, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove a cache of which no shard was written; report what is kept of a stopped run."""
        # A signal may come when a shard is written, but not yet counted: look at the files.
        alone = self._share.of == 1
        if not self._kept and self.missing and alone and not any(self._folder.glob("shard-*")):
            abandon(self._folder)
        if isinstance(error, Stopped):
            raise Stopped(
                error.signum,
                f"{len(self._kept)} of {len(self._mine)} shards are finished in {self._folder}; "
                "run the same command again to resume.",
            ) from None

    def finish(self, classes: tuple[str, ...] | None) -> Iterator[Event]:
        """Wait for the shards of other processes, then write the manifest if it changed.

        The last event is CacheDone; processes other than the first do not wait and end with
        CacheShareDone. `classes` None: as many as the labels need. Without a single readable image
        the cache is removed again and MdtError raised.
        """
        folder = self._folder
        if self._share.rank:
            yield CacheShareDone(str(folder), self._share.rank, len(self._mine))
            return
        others = yield from self._of_others()
        shards = list((self._kept | others).values())
        if not any(shard.rows for shard in shards):
            entry = min(shards, key=lambda shard: shard.index).skipped[0]
            abandon(folder)
            raise MdtError(
                f"none of the {self._plan['source']['items']} images could be read; "
                f"the first: {entry['name']}: {entry['reason']}",
                "give images that Pillow can open",
            )
        contents = self._images.text(shards)
        if self._before is not None and are_those_of(self._before, shards, contents):
            # A repair: with other versions in its manifest the cache would be another one.
            remove_records(folder)
        elif not self._was_finished or any(folder.glob("shard-*.json")):
            if self._was_finished:
                yield Warned(
                    f"re-encoded shards differ from the originals, so {folder} is a different "
                    "cache: runs trained on the old one cannot be resumed"
                )
            write_manifest(folder, self._plan, shards, classes, versions(self._plan), contents)
        if contents is not None:
            write_marks(folder, self._images.marks(others.values()))
        yield from finished_cache(folder, self._was_finished and not self.missing)

    def _of_others(self) -> Generator[Event, None, dict[int, Shard]]:
        """The shards of the other processes, once their files are there and intact."""
        found: dict[int, Shard] = {}

        def absent(indices: Sequence[int]) -> list[int]:
            found.update(finished_shards(self._folder, indices))
            return [index for index in indices if index not in found]

        for indices in poll([k for k in range(len(self._spans)) if k not in self._kept], absent):
            ranks = {self._share.of_whom(index) for index in indices}
            yield from self._meeting.check(sorted(ranks - {0}))
        return found


def _difference(folder: Path, origin: Origin, before: dict[str, Any]) -> str:
    held = read_contents(folder, before)
    return "" if held is None else difference([name for name, _ in held], origin.names)


def finished_cache(folder: Path, unchanged: bool) -> Iterator[Event]:
    """What a finished cache holds; the last event is CacheDone."""
    facts = open_cache(folder).facts
    manifest, _ = read_manifest(folder)
    skipped = tuple((entry["name"], entry["reason"]) for entry in manifest["skipped"])
    without = [n for n, k in zip(facts.class_names, facts.class_counts, strict=True) if not k]
    if without:
        yield Warned(
            f"{len(without)} of {facts.num_classes} classes have no image: {_some(without)}"
        )
    for mode, number in manifest["modes"].items():
        kind, _, done = mode.partition("; ")
        if done:
            yield Note(f"{number} of {facts.count} images ({kind}): {done}")
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
    while (before := begun(folder)) is None:
        if time.monotonic() > deadline:
            raise MdtError(
                f"process {share.rank} waited {SECONDS_FOR_PLAN:.0f} s for {folder / PLAN}",
                "every process must see the same folder",
            )
        time.sleep(SECONDS_BETWEEN_POLLS)
    refuse_other_plan(folder, before, plan, lambda _: "")


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
    """A file name in valid Unicode, with backslash escapes where it is not."""
    return name.encode("utf-8", "backslashreplace").decode()


def _refuse_skipped(found: Sequence[Shard]) -> None:
    for shard in found:
        for entry in shard.skipped:
            raise unreadable_error(entry["name"], entry["reason"])


def unreadable_error(name: str, reason: str) -> MdtError:
    """The error for an image that --strict does not skip."""
    return MdtError(
        f"{name} cannot be read: {reason}", "repair or remove it, or leave out --strict to skip it"
    )
