"""A list of images, whatever they were found in: what workers read, and in which order."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import Reader
from mdt_cli.images.files import SUFFIXES, is_hidden, is_image, suffix


@dataclass(frozen=True)
class Source:
    """Items in the order of their relative paths.

    `places` are what `reader` understands, `stamps` what tells that an item changed (its size,
    and its checksum where the archive has one). `classes` is empty for unlabelled images.
    """

    kind: str
    reader: Reader
    names: list[str]
    places: list[Any]
    stamps: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    ignored: dict[str, int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Names, stamps and labels of all items, hashed: another digest is another set."""
        state = hashlib.sha256(json.dumps(self.classes).encode())
        for name, stamp, label in zip(self.names, self.stamps, self.labels, strict=True):
            state.update(f"{name}\0{stamp}\0{label}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()


@dataclass(frozen=True)
class Found:
    """One file of a folder or archive, before it is known whether it is an image."""

    name: str
    place: Any
    stamp: str


def make_source(
    kind: str,
    reader: Reader,
    images: list[Found],
    found_labels: tuple[list[int], tuple[str, ...]] | None,
    ignored: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> Source:
    numbers, classes = found_labels or ([0] * len(images), ())
    return Source(
        kind=kind,
        reader=reader,
        names=[item.name for item in images],
        places=[item.place for item in images],
        stamps=[item.stamp for item in images],
        labels=numbers,
        classes=classes,
        ignored=dict(ignored),
        notes=notes,
    )


def limited(source: Source, limit: int | None) -> Source:
    """At most `limit` items, evenly spread over the sorted list: every class has its share."""
    if limit is None or limit >= len(source):
        return source
    if limit < 1:
        raise MdtError(f"--limit {limit} leaves no image", "give a number from 1")
    chosen = [k * len(source) // limit for k in range(limit)]
    return replace(
        source,
        names=[source.names[k] for k in chosen],
        places=[source.places[k] for k in chosen],
        stamps=[source.stamps[k] for k in chosen],
        labels=[source.labels[k] for k in chosen],
    )


def kept(found: Iterable[Found], ignored: Counter[str]) -> Iterator[Found]:
    """Those that are images by their suffix; the others are counted by why they are not."""
    for item in found:
        if is_hidden(item.name):
            ignored["hidden"] += 1
        elif is_image(item.name):
            yield item
        else:
            ignored[suffix(item.name) or "no suffix"] += 1


def no_images(path: Path, ignored: Counter[str]) -> MdtError:
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items())[:5])
    return MdtError(
        f"{path} holds no images" + (f" (found {others})" if others else ""),
        f"expected files such as {', '.join(sorted(SUFFIXES)[:8])}",
    )
