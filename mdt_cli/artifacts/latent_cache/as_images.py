"""A latent cache of the codec `pixels` as the set of images that it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mdt_cli.artifacts.latent_cache.format import FORMAT, MANIFEST, PIXELS
from mdt_cli.artifacts.latent_cache.schema import ManifestFields
from mdt_cli.artifacts.tensor_header import read_tensor_header
from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.images.decode import Pixels
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.labels import Classes
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.json_reader import MAX_LISTING_BYTES, read_json
from mdt_cli.schema import check_schema

ENCODE_AGAIN = "rerun the same `mdt encode-latents` command; intact shards are kept"


@dataclass
class PixelReader:
    """Locations are (shard, offset in bytes) of the pixels [3, side, side] of one image."""

    shards: tuple[Path, ...]
    side: int
    _open: tuple[int, BinaryIO] | None = field(default=None, repr=False)

    def read(self, location: tuple[int, int]) -> Pixels:
        """uint8 [side, side, 3]."""
        shard, offset = location
        if self._open is None or self._open[0] != shard:
            self.close()
            self._open = (shard, self.shards[shard].open("rb"))
        self._open[1].seek(offset)
        data = self._open[1].read(3 * self.side**2)
        if len(data) != 3 * self.side**2:
            raise UnreadableError(f"{self.shards[shard]} ends in the middle of it")
        planes = np.frombuffer(data, np.uint8).reshape(3, self.side, self.side)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def files(self, locations: Sequence[tuple[int, int]]) -> set[Path]:
        """The shards that are read."""
        return {self.shards[shard] for shard, _ in locations}

    def close(self) -> None:
        """Close the shard that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def is_cache(folder: Path) -> bool:
    """Whether a folder is a finished latent cache, by its manifest."""
    file = folder / MANIFEST
    if not file.is_file():
        return False
    try:
        return bool(read_json(file, MAX_LISTING_BYTES).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def cached_images(folder: Path) -> ImageSet:
    """The images of a pixel cache, named `shard-00000.safetensors[5]`. MdtError for other codecs.

    The checksum of each shard is verified: a pixel that changed on the disk would change a score.
    """
    try:
        manifest = check_schema(ManifestFields, read_json(folder / MANIFEST, MAX_LISTING_BYTES))
        codec, side = manifest["codec"], int(manifest["image_size"])
        if codec["name"] != PIXELS:
            raise MdtError(
                f"{folder} holds latents of {codec.get('id') or 'an autoencoder'}, not pixels, "
                f"and a cache does not keep the {manifest['count']:,} images behind them",
                "give the images the cache was made from: the folder, zip or tar",
            )
        shards: list[Path] = []
        images: list[Found] = []
        numbers: list[int] = []
        for entry in manifest["shards"]:
            if entry["rows"] and entry["file"] is not None:
                file, rows = folder / entry["file"], entry["rows"]
                if sha256_of(file) != entry["sha256"]:
                    raise ValueError(f"the checksum of {file.name} does not match its manifest")
                offset, labels = _layout(file, rows, side)
                numbers += labels
                images += [
                    Found(
                        f"{entry['file']}[{row}]",
                        (len(shards), offset + row * 3 * side**2),
                        entry["sha256"],
                    )
                    for row in range(rows)
                ]
                shards.append(file)
        names = tuple(str(entry["name"]) for entry in manifest["classes"])
        if names and max(numbers, default=0) >= len(names):
            raise ValueError(f"it has label {max(numbers)}, but {len(names)} classes")
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise MdtError(f"the cache {folder} is damaged: {error}", ENCODE_AGAIN) from error
    reader = PixelReader(tuple(shards), side)
    find = partial(_classes, numbers, names) if names else None
    return make_set(folder, "latent cache", reader, images, find, {}, size=(side, side))


def _classes(numbers: list[int], names: tuple[str, ...]) -> Classes:
    return numbers, names


def _layout(file: Path, rows: int, side: int) -> tuple[int, list[int]]:
    """Where a shard's pixels begin, and its labels."""
    with file.open("rb") as shard:
        header, start = read_tensor_header(shard, file.stat().st_size)
        pixels, label = header[PIXELS], header["label"]
        if pixels["dtype"] != "U8" or pixels["shape"] != [rows, 3, side, side]:
            raise ValueError(f"{file.name} holds {pixels['dtype']} {pixels['shape']}")
        first, last = label["data_offsets"]
        shard.seek(start + first)
        data = shard.read(last - first)
    return start + pixels["data_offsets"][0], np.frombuffer(data, "<i8").tolist()
