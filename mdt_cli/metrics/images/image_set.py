"""A set of images: what is known of it, its encoded images, and their pixels as 8-bit RGB."""

import hashlib
import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import Pixels, crop_pixels, read_pixels
from mdt_cli.images.npz import RowFile
from mdt_cli.metrics.images.archives import Stretch
from mdt_cli.metrics.images.unreadable import blamed, zip_bytes

Raw = Path | bytes | Pixels


@dataclass(frozen=True)
class ImageSet:
    """Images at one place, all of one size, listed but not yet read."""

    path: Path
    kind: str  # "folder", "sample folder", "zip", "npz", "tar" or "latent cache"
    count: int
    size: tuple[int, int]  # (height, width), once cropped
    jpegs: int  # how many are stored in a lossy format
    names: tuple[str, ...] = field(repr=False)  # empty for npz
    file: Path | None = None  # the npz, where `path` is a folder that holds it
    provenance: dict[str, Any] | None = None  # `samples.json`
    classes: tuple[str, ...] | None = field(default=None, repr=False)  # of each image
    places: tuple[Stretch, ...] = field(default=(), repr=False)  # of a tar or cache
    crop: int | None = None  # side of the square that each image is cropped to
    resized: int = 0  # how many have another size than that
    enlarged: int = 0  # how many are smaller


class Reader:
    """The encoded images of a set. Use as a context.

    What was opened stays open, so that spans read in order cost one pass, in constant memory.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._held = ExitStack()
        self._archive: zipfile.ZipFile | None = None
        self._rows: RowFile | None = None
        self._stretches: tuple[Path, BinaryIO] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._held.close()

    def read(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[str, Raw]]:
        """Each image, or those at ascending positions, with a name to blame."""
        images = self.images
        chosen = range(images.count) if wanted is None else wanted
        if images.places:
            for k in chosen:
                yield images.names[k], self._stretch(images.places[k], images.names[k])
        elif images.kind == "zip":
            if self._archive is None:
                self._archive = self._held.enter_context(zipfile.ZipFile(images.path))
            for name in (images.names[k] for k in chosen):
                yield name, zip_bytes(images.path, self._archive, name)
        elif images.names:
            for name in (images.names[k] for k in chosen):
                yield name, images.path / name
        else:
            if self._rows is None:
                self._rows = self._held.enter_context(RowFile(images.file or images.path, "arr_0"))
            for index, row in self._rows.read(chosen):
                yield f"arr_0[{index}]", row

    def _stretch(self, place: Stretch, name: str) -> Raw:
        """Bytes of a tar's image; pixels of a cache's."""
        try:
            if self._stretches is None or self._stretches[0] != place.file:
                self._held.close()
                self._stretches = place.file, self._held.enter_context(place.file.open("rb"))
            stream = self._stretches[1]
            stream.seek(place.offset)
            data = stream.read(place.size)
        except OSError as error:
            raise MdtError(f"cannot read {place.file}: {error.strerror or error}") from error
        if len(data) != place.size:
            raise MdtError(f"{place.file} ends in the middle of {name}", "copy or make it again")
        if self.images.kind != "latent cache":
            return data
        side = math.isqrt(place.size // 3)
        planes = np.frombuffer(data, np.uint8).reshape(3, side, side)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))


def read_raw(images: ImageSet, wanted: Sequence[int] | None = None) -> Iterator[tuple[str, Raw]]:
    """Every image, still encoded, or those at ascending positions, in a pass of its own."""
    with Reader(images) as reader:
        yield from reader.read(wanted)


def pixels_at(images: ImageSet, positions: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
    """Position and decoded image of some positions, ascending, each once."""
    ascending = sorted(set(positions))
    for position, (name, raw) in zip(ascending, read_raw(images, ascending), strict=True):
        yield position, decode(images, name, raw)


def decode(images: ImageSet, name: str, raw: Raw) -> Pixels:
    """uint8 [H,W,3] of one image, of the size of its set."""
    if isinstance(raw, np.ndarray):
        pixels_HWC = raw if raw.shape[2] == 3 else np.repeat(raw, 3, axis=2)
        return pixels_HWC if images.crop is None else crop_pixels(pixels_HWC, images.crop)
    with blamed(images.path, name):
        return read_pixels(raw, images.crop)


def pixel_digest(pixels_HWC: Pixels) -> bytes:
    """SHA-256 of an image's size and pixels: the same in a folder, a zip or an npz."""
    shape = struct.pack("<2I", pixels_HWC.shape[0], pixels_HWC.shape[1])
    return hashlib.sha256(shape + np.ascontiguousarray(pixels_HWC).tobytes()).digest()
