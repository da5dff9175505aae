"""Images that lie as stretches of larger files: tars, WebDataset or plain, and latent caches."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.images.files import is_hidden, is_image
from mdt_cli.metrics.images import labels

CACHE_FORMAT, MANIFEST, PIXELS = "mdt-latents", "manifest.json", "pixels"
# A label file is a number or a line of JSON; anything longer is none.
MAX_LABEL_BYTES = 1 << 20
ENCODE_AGAIN = "run the same `mdt encode-latents` again: it keeps what is whole"


@dataclass(frozen=True)
class Stretch:
    """Some bytes of a file."""

    file: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Listed:
    """Images found in larger files: their names, places and classes, in reading order."""

    names: tuple[str, ...]
    places: tuple[Stretch, ...]
    classes: tuple[str, ...] | None


def list_tars(files: Sequence[Path], root: Path) -> Listed:
    """The images of all tars, sorted; classes from `.cls` or `.json` beside them, or folders."""
    places: dict[str, Stretch] = {}
    beside: dict[str, str] = {}
    inner: dict[str, str] = {}
    for file in files:
        shard = file.relative_to(root).as_posix()
        try:
            # "r:" reads plain tars only: a packed one cannot be entered in the middle.
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    path = Path(member.name)
                    if not member.isfile() or is_hidden(path.as_posix()):
                        continue
                    suffix = path.suffix.lower()
                    name = f"{shard}/{path.as_posix()}"
                    if is_image(path.name):
                        places[name] = Stretch(file, member.offset_data, member.size)
                        inner[name] = path.as_posix()
                    elif suffix in (".cls", ".json") and member.size <= MAX_LABEL_BYTES:
                        opened = tar.extractfile(member)
                        found = labels.from_beside(opened.read() if opened else b"", suffix)
                        if found is not None:
                            beside[_key(name)] = found
        except (tarfile.TarError, OSError, EOFError) as error:
            raise MdtError(
                f"cannot read {file}: {error}",
                "copy it again; a packed tar (.tar.gz) must be unpacked to .tar first",
            ) from error
    names = tuple(sorted(places))
    told = [beside.get(_key(name)) for name in names]
    classes = (
        labels.from_folders([inner[name] for name in names])
        if None in told
        else tuple(name for name in told if name is not None)
    )
    return Listed(names, tuple(places[name] for name in names), classes)


def is_cache(folder: Path) -> bool:
    """Whether a folder is a latent cache, by its manifest."""
    file = folder / MANIFEST
    if not file.is_file():
        return False
    try:
        return bool(json.loads(file.read_bytes()).get("format") == CACHE_FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def list_cache(folder: Path) -> tuple[Listed, int]:
    """The pixels of a cache, uint8 [3, S, S] each, and S. MdtError for any other codec.

    Each shard is read once, for its checksum: a pixel that changed on the disk changes a score.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        codec, side = manifest["codec"], int(manifest["image_size"])
        if codec["name"] != PIXELS:
            raise MdtError(
                f"{folder} holds latents of {codec.get('id') or 'an autoencoder'}, not pixels, "
                f"and a cache does not keep the {manifest['count']:,} images behind them",
                "give the images the cache was made from: the folder, zip or tar",
            )
        names: list[str] = []
        places: list[Stretch] = []
        numbers: list[int] = []
        for entry in manifest["shards"]:
            if entry["rows"]:
                file, rows = folder / entry["file"], int(entry["rows"])
                if sha256_of(file) != entry["sha256"]:
                    raise ValueError(f"the checksum of {file.name} does not match its manifest")
                numbers += _rows(file, rows, side, places)
                names += [f"{entry['file']}[{row}]" for row in range(rows)]
        classes = [str(entry["name"]) for entry in manifest["classes"]]
        if classes and max(numbers, default=0) >= len(classes):
            raise ValueError(f"it has label {max(numbers)}, but {len(classes)} classes")
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise MdtError(f"the cache {folder} is damaged: {error}", ENCODE_AGAIN) from error
    told = tuple(classes[number] for number in numbers) if classes else None
    return Listed(tuple(names), tuple(places), told), side


def _rows(file: Path, rows: int, side: int, places: list[Stretch]) -> list[int]:
    """Add the places of a shard's pixels; its labels."""
    with file.open("rb") as shard:
        length = int.from_bytes(shard.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} is cut short")
        header: dict[str, Any] = json.loads(shard.read(length))
        pixels, label = header[PIXELS], header["label"]
        if pixels["dtype"] != "U8" or pixels["shape"] != [rows, 3, side, side]:
            raise ValueError(f"{file.name} holds {pixels['dtype']} {pixels['shape']}")
        first, last = label["data_offsets"]
        shard.seek(8 + length + first)
        data = shard.read(last - first)
    size, start = 3 * side * side, 8 + length + pixels["data_offsets"][0]
    places += [Stretch(file, start + row * size, size) for row in range(rows)]
    return [int.from_bytes(data[k : k + 8], "little") for k in range(0, len(data), 8)]


def _key(name: str) -> str:
    """The path up to the first dot of the file name: what joins an image and its label."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"
