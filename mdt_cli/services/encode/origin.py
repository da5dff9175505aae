"""Whether the images behind a cache are still those that it was made from."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.latent_cache.sources import (
    CONTENTS,
    SHA256,
    contents_facts,
    contents_text,
    write_contents,
)
from mdt_cli.errors import MdtError
from mdt_cli.images.contents import mark_name, marks
from mdt_cli.images.files import as_text
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.workers import TASK_IMAGES, Decoders
from mdt_cli.services.events import Event, Progress

SHOWN = 5
COMPARED = "compared with what was encoded"
NEW_FOLDER = (
    "changed images are a new cache: choose a new folder, or put the images back as they were"
)


@dataclass(frozen=True)
class Origin:
    """The items a cache is made from: their names, their files, and the SHA-256 of some of them.

    `digests` gives those of ascending positions, in order and in parts, "" for an item that
    cannot be read.
    """

    root: Path
    names: Sequence[str]
    files: Callable[[Sequence[int]], set[Path]]
    digests: Callable[[Sequence[int]], Iterator[list[str]]]

    def marks(self, positions: Sequence[int]) -> dict[str, str]:
        """Size and times of the files in which these items lie, as they are now."""
        return marks(self.files(positions), self.root)


def of_images(images: ImageSet, workers: int) -> Origin:
    """The origin of a cache of these images; `workers` processes read them where they are many."""
    reader, locations = images.reader, images.locations

    def files(positions: Sequence[int]) -> set[Path]:
        return reader.files([locations[k] for k in positions])

    def digests(positions: Sequence[int]) -> Iterator[list[str]]:
        chosen = [locations[k] for k in positions]
        few = len(chosen) <= TASK_IMAGES
        with Decoders(reader, 1, 0 if few else workers) as decoders:
            yield from decoders.contents(chosen, [range(len(chosen))])

    return Origin(images.path, images.names, files, digests)


def records_contents(before: Mapping[str, Any] | None) -> str | None:
    """The rule of contents for a cache that was begun with this plan, or is new."""
    if before is None:
        return SHA256
    source = before.get("source")
    rule = source.get("contents") if isinstance(source, dict) else None
    if rule not in (None, SHA256):
        raise MdtError(
            f"the cache records its images by the rule {rule}, which this version does not know",
            "use the version of mdt that made the cache, or choose a new folder",
        )
    return rule


def check_unchanged(
    origin: Origin,
    positions: Sequence[int],
    known: Sequence[str],
    seen: Mapping[str, str],
    folder: Path,
) -> Generator[Event, None, dict[str, str]]:
    """Compare the items at `positions`, of which `known` are the SHA-256, with those there now.

    Only items in files that have other marks than `seen` are read. Returns the marks of now.
    Raises MdtError with the names of items of other content.
    """
    now = origin.marks(positions)
    fresh = {name for name, mark in now.items() if seen.get(name) == mark}
    doubtful = [
        slot
        for slot, position in enumerate(positions)
        if not fresh.issuperset(mark_name(f, origin.root) for f in origin.files([position]))
    ]
    changed: list[str] = []
    done = 0
    for part in origin.digests([positions[slot] for slot in doubtful]):
        for digest in part:
            slot = doubtful[done]
            if digest != known[slot]:
                why = "" if digest else " (cannot be read)"
                changed.append(as_text(origin.names[positions[slot]]) + why)
            done += 1
        yield Progress(done, len(doubtful), COMPARED)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise MdtError(
            f"images that {folder} was made from have other content now ({len(changed)} of "
            f"{len(positions)}): {', '.join(changed[:SHOWN])}{more}",
            NEW_FOLDER,
        )
    return now


def restored_contents(
    origin: Origin, manifest: Mapping[str, Any], folder: Path
) -> Generator[Event, None, list[str]]:
    """The SHA-256 of all items, read again and written; MdtError where the manifest has others."""
    digests: list[str] = []
    for part in origin.digests(range(len(origin.names))):
        digests += part
        yield Progress(len(digests), len(origin.names), COMPARED)
    text = contents_text(origin.names, digests)
    if contents_facts(text) != manifest.get("contents"):
        raise MdtError(
            f"{folder / CONTENTS} is missing or damaged, and the images are not those that "
            f"{folder} was made from",
            NEW_FOLDER,
        )
    write_contents(folder, text)
    return digests


def merged_marks(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The marks in all parts; a file that two of them saw differently is left out."""
    found: dict[str, str] = {}
    torn: set[str] = set()
    for part in parts:
        torn.update(name for name, mark in part.items() if found.get(name, mark) != mark)
        found.update(part)
    return {name: mark for name, mark in found.items() if name not in torn}


def difference(then: Sequence[str], now: Sequence[str]) -> str:
    """What was added and removed between two lists of names, as the end of a sentence."""
    before, after = Counter(then), Counter(now)
    words = [
        f"{what} {', '.join(map(as_text, sorted(names)[:SHOWN]))}"
        + (", ..." if len(names) > SHOWN else "")
        for what, names in (("added", after - before), ("removed", before - after))
        if names
    ]
    return f": {'; '.join(words)}" if words else ": the same names with other classes"
