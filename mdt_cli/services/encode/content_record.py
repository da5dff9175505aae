"""What a cache that is being filled knows of the content of its images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.latent_cache.sources import (
    CONTENTS,
    aligned,
    contents_text,
    read_contents,
    read_marks,
)
from mdt_cli.artifacts.latent_cache.write import Content, Shard
from mdt_cli.services.encode.origin import (
    Origin,
    check_unchanged,
    merged_marks,
    restored_contents,
)
from mdt_cli.services.events import Event, Note, Warned


class ContentRecord:
    """The SHA-256 of the items of a cache, and the marks of their files; none of an old cache."""

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], origin: Origin, spans: Sequence[range]
    ) -> None:
        self._folder, self._origin, self._spans = folder, origin, spans
        self.kept = "contents" in plan["source"]
        # Of all items of a finished cache.
        self._known: list[str] = []
        # Marks of the files of shards that are there, and of those of each shard to be written.
        self._now: dict[str, str] = {}
        self._before_reading: dict[int, dict[str, str]] = {}

    def is_complete(self, shard: Shard) -> bool:
        """Whether the record of a shard has the content of each of its items."""
        return not self.kept or len(shard.contents) == len(self._spans[shard.index])

    def compare(
        self, before: Mapping[str, Any], mine: Sequence[int], shards: Mapping[int, Shard]
    ) -> Iterator[Event]:
        """Compare the images of the shards that are there with those that were encoded.

        Of a finished cache those of the damaged shards in `mine` too. MdtError where one changed.
        """
        origin, folder = self._origin, self._folder
        if not self.kept:
            yield Note(without_contents(folder))
            return
        if "shards" in before:
            held = read_contents(folder, before)
            if held is None:
                yield Warned(f"{folder / CONTENTS} is missing or damaged: images are read again")
                self._known = yield from restored_contents(origin, before, folder)
                return
            self._known = aligned(origin.names, held)
            seen, indices = read_marks(folder), mine
        else:
            seen, indices = merged_marks(s.marks for s in shards.values()), sorted(shards)
        positions = [k for index in indices for k in self._spans[index]]
        known = [digest for index in indices for digest in self._digests(index, shards.get(index))]
        now = yield from check_unchanged(origin, positions, known, seen, folder)
        # Without all shards, other processes look at the rest.
        if "shards" in before:
            yield Note("the images are unchanged, by size and time; --verify reads them again")
        self._now = now if len(indices) == len(self._spans) else seen | now

    def look(self, indices: Iterable[int]) -> None:
        """Mark the files of shards before they are read: what changes from then on shows."""
        if self.kept:
            for index in indices:
                self._before_reading[index] = self._origin.marks(self._spans[index])

    def added_to(self, index: int, content: Content) -> Content:
        """The content of shard `index` with what is recorded of its images."""
        return replace(
            content,
            contents=content.contents if self.kept else [],
            marks=self._before_reading.get(index, {}),
        )

    def text(self, shards: Iterable[Shard]) -> bytes | None:
        """The text of the file of contents for all shards of the cache."""
        if not self.kept:
            return None
        digests: list[str] = []
        for shard in sorted(shards, key=lambda shard: shard.index):
            digests += self._digests(shard.index, shard)
        return contents_text(self._origin.names, digests)

    def marks(self, others: Iterable[Shard]) -> dict[str, str]:
        """The marks of all files, those that other processes read included."""
        parts = [self._now, *self._before_reading.values(), *(shard.marks for shard in others)]
        return merged_marks(parts)

    def _digests(self, index: int, shard: Shard | None) -> Sequence[str]:
        span = self._spans[index]
        recorded = shard.contents if shard is not None else []
        return recorded or self._known[span.start : span.stop]


def without_contents(folder: Path) -> str:
    """What a user should know of a cache that records no contents of its images."""
    return (
        f"{folder} was begun by an earlier version of mdt, which recorded no contents: an image "
        "replaced by one of the same name and size is not noticed"
    )
