"""A set of images, whatever contains it: names, classes, a digest, and how to read each image."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import Reader
from mdt_cli.images.decode import Raw
from mdt_cli.images.files import SUFFIXES, as_text, is_hidden, is_image, suffix
from mdt_cli.images.labels import Classes
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.reading import Reading

# What file servers and Windows keep beside images.
SIDE_FOLDERS = frozenset({"@eaDir", "$RECYCLE.BIN", "lost+found"})


@dataclass(frozen=True)
class ImageSet:
    """Images of one path in the order of their names; listed, not yet read.

    `reader` is picklable and understands `locations`. `stamps` change when an image changes: its
    size, and its checksum where the archive has one. `labels` are class numbers, indices into
    `classes`; without classes they are 0.
    """

    path: Path
    kind: str
    reader: Reader
    names: list[str]
    locations: list[Any]
    stamps: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    ignored: dict[str, int]  # how many files are no images, by their suffix
    notes: tuple[str, ...] = ()
    # Why there are no classes although the layout seems to have some.
    fault: MdtError | None = None
    size: tuple[int, int] | None = None  # (height, width), where the container has one for all
    provenance: Mapping[str, Any] | None = None  # `samples.json` of a sample folder

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """SHA-256 of names, stamps and labels: another digest means another set."""
        return self._digest(self.stamps)

    @property
    def listing_digest(self) -> str:
        """SHA-256 of names and labels alone, for those who compare the contents."""
        return self._digest([""] * len(self))

    def _digest(self, stamps: Sequence[str]) -> str:
        state = hashlib.sha256(json.dumps(self.classes).encode())
        for name, stamp, label in zip(self.names, stamps, self.labels, strict=True):
            state.update(f"{name}\0{stamp}\0{label}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def read(self, positions: Iterable[int]) -> Iterator[tuple[str, Raw | UnreadableError]]:
        """Name and content of the images at `positions`, or the reason why one cannot be read.

        Ascending positions cost one pass; what was opened stays open until `close`.
        """
        for k in positions:
            try:
                raw: Raw | UnreadableError = self.reader.read(self.locations[k])
            except UnreadableError as error:
                raw = error
            except OSError as error:
                raw = UnreadableError(str(error))
            yield self.names[k], raw

    def close(self) -> None:
        """Close the files of the reader; reading again opens them again."""
        self.reader.close()


@dataclass(frozen=True)
class Found:
    """One file of a folder or archive, before it is known whether it is an image."""

    name: str
    location: Any
    stamp: str


def make_set(
    path: Path,
    kind: str,
    reader: Reader,
    images: Sequence[Found],
    find_classes: Callable[[], Classes] | None,
    ignored: Mapping[str, int],
    notes: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> ImageSet:
    """The set of `images`; an MdtError of `find_classes` becomes the set's `fault`.

    `notes` may grow while classes are found.
    """
    classes: Classes = [0] * len(images), ()
    fault = None
    if find_classes is not None:
        try:
            classes = find_classes()
        except MdtError as error:
            fault = error
    return ImageSet(
        path=path,
        kind=kind,
        reader=reader,
        names=[item.name for item in images],
        locations=[item.location for item in images],
        stamps=[item.stamp for item in images],
        labels=classes[0],
        classes=classes[1],
        ignored=dict(ignored),
        notes=tuple(notes),
        fault=fault,
        size=size,
    )


def without_classes(images: ImageSet) -> ImageSet:
    """The same images, unlabelled; any folder is then just a folder."""
    kind = "folder" if images.kind.endswith("folder") else images.kind
    return replace(images, kind=kind, labels=[0] * len(images), classes=(), fault=None)


def limited(images: ImageSet, limit: int | None) -> ImageSet:
    """At most `limit` images, evenly spread over the sorted list, so that every class has some."""
    if limit is None or limit >= len(images):
        return images
    if limit < 1:
        raise MdtError(f"--limit {limit} leaves no image", "give a number from 1")
    chosen = [k * len(images) // limit for k in range(limit)]
    return replace(
        images,
        names=[images.names[k] for k in chosen],
        locations=[images.locations[k] for k in chosen],
        stamps=[images.stamps[k] for k in chosen],
        labels=[images.labels[k] for k in chosen],
    )


def kept(found: Iterable[Found], ignored: Counter[str]) -> Iterator[Found]:
    """Those that are images by their suffix; `ignored` counts the others by suffix."""
    for item in found:
        if is_hidden(item.name):
            ignored["hidden"] += 1
        elif is_image(item.name):
            yield item
        else:
            ignored[suffix(item.name) or "no suffix"] += 1


def chosen(
    images: Sequence[Found],
    reading: Reading,
    path: Path,
    ignored: Counter[str],
    inner: Callable[[Found], str] | None = None,
) -> list[Found]:
    """Those of `images` that the user's patterns name, sorted; `ignored` counts the others.

    `inner` gives the path inside an archive. Raises MdtError where the patterns name no image.
    """
    if not reading.by_first_rules:
        own = [
            item
            for item in images
            if not any(side in item.name for side in SIDE_FOLDERS)
            or SIDE_FOLDERS.isdisjoint(item.name.split("/"))
        ]
        if len(own) < len(images):
            ignored["hidden"] += len(images) - len(own)
        images = own
    wanted = [
        item for item in images if reading.wants(item.name, None if inner is None else inner(item))
    ]
    if images and not wanted:
        raise MdtError(
            f"{reading.only_option} {' '.join(reading.only)} names none of the {len(images)} "
            f"images of {path}",
            f"the first is {as_text(min(item.name for item in images))}",
        )
    if len(wanted) < len(images):
        ignored["not chosen"] += len(images) - len(wanted)
    return sorted(wanted, key=lambda item: reading.key(item.name))


def no_images(path: Path, ignored: Mapping[str, int]) -> MdtError:
    """The error for a container without a single image, with what it holds instead."""
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items())[:5])
    return MdtError(
        f"{path} holds no images" + (f" (found {others})" if others else ""),
        f"expected files such as {', '.join(sorted(SUFFIXES)[:8])}",
    )
