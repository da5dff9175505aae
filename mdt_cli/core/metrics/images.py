"""The sets of images that can be scored: folders, zips and npz arrays, read as 8-bit RGB."""

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mdt_cli.core.metrics.arrays import RowFile
from mdt_cli.errors import MdtError

Pixels = NDArray[np.uint8]
Raw = Path | bytes | Pixels

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"})
# More than 8 bits per channel: turning these into RGB would clip or wrap without a word.
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# What Pillow raises for a broken file, by format: its own and its decoders' errors.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class ImageSet:
    """Images at one place, all of one size, listed but not yet read."""

    path: Path
    kind: str  # "folder", "sample folder", "zip" or "npz"
    count: int
    size: tuple[int, int]  # (height, width)
    jpegs: int  # how many are stored as JPEG
    names: tuple[str, ...] = field(repr=False)  # empty for npz
    file: Path | None = None  # the npz, where `path` is a folder that holds it
    provenance: dict[str, Any] | None = None  # `samples.json`


def open_images(path: Path) -> ImageSet:
    """List the images at `path` and check, from their headers, that they have one size.

    A folder is searched recursively in sorted order; a folder with `samples.json` is a sample
    folder, where only numbered images (or the one npz) are samples, so a grid beside them is not.
    """
    if not path.exists():
        raise MdtError(f"{path} does not exist", "give a folder, a zip or an npz of images")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() == ".npz":
        return _open_npz(path)
    if zipfile.is_zipfile(path):
        return _open_zip(path)
    if path.suffix.lower() == ".zip":
        raise MdtError(f"{path} is not a readable zip", "it may be truncated: copy it again")
    raise MdtError(
        f"{path} is neither a folder, a zip nor an npz",
        "images are read from a folder, a zip, an npz with arr_0, or a sample folder",
    )


def read_raw(images: ImageSet) -> Iterator[tuple[str, Raw]]:
    """Every image, still encoded, with a name to blame; constant memory for any set."""
    if images.kind == "zip":
        with zipfile.ZipFile(images.path) as archive:
            for name in images.names:
                yield name, _zip_bytes(images.path, archive, name)
    elif images.names:
        for name in images.names:
            yield name, images.path / name
    else:
        source = images.file or images.path
        with RowFile(source, "arr_0") as rows:
            for index, row in enumerate(rows.read()):
                yield f"arr_0[{index}]", row


def decode(images: ImageSet, name: str, raw: Raw) -> Pixels:
    """uint8 [H,W,3] of one image, of the size its header promised."""
    if isinstance(raw, np.ndarray):
        return raw if raw.shape[2] == 3 else np.repeat(raw, 3, axis=2)
    try:
        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as opened:
            opened.load()
            if opened.mode in DEEP_MODES:
                raise MdtError(
                    f"{images.path}: {name} has more than 8 bits per channel ({opened.mode})",
                    "convert it to an 8-bit RGB or grey image first",
                )
            return np.asarray(opened.convert("RGB"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise _broken(images.path, name, error) from error


def pixel_digest(pixels_HWC: Pixels) -> bytes:
    """SHA-256 of an image's size and pixels: the same in a folder, a zip or an npz."""
    shape = struct.pack("<2I", pixels_HWC.shape[0], pixels_HWC.shape[1])
    return hashlib.sha256(shape + np.ascontiguousarray(pixels_HWC).tobytes()).digest()


def _open_folder(path: Path) -> ImageSet:
    provenance = _provenance(path)
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    if provenance is not None:
        found = [file for file in found if re.fullmatch(r"\d+", file.stem)]
        arrays = sorted(path.glob("*.npz"))
        if not found and len(arrays) == 1:
            return _open_npz(arrays[0], folder=path, provenance=provenance)
    if not found:
        raise MdtError(
            f"{path} holds no images", f"expected {', '.join(sorted(EXTENSIONS))} at any depth"
        )
    names = tuple(file.relative_to(path).as_posix() for file in found)
    size = _one_size(path, ((name, _header(path, name, path / name)) for name in names))
    kind = "folder" if provenance is None else "sample folder"
    return ImageSet(path, kind, len(names), size, _jpegs(names), names, provenance=provenance)


def _open_zip(path: Path) -> ImageSet:
    with zipfile.ZipFile(path) as archive:
        names = tuple(
            sorted(
                name
                for name in archive.namelist()
                if Path(name).suffix.lower() in EXTENSIONS
                and not name.startswith("__MACOSX/")
                and not Path(name).name.startswith(".")
            )
        )
        if not names:
            raise MdtError(f"{path} holds no images", "a zip of samples holds PNG files")
        sizes = ((name, _header(path, name, _zip_bytes(path, archive, name))) for name in names)
        size = _one_size(path, sizes)
    return ImageSet(path, "zip", len(names), size, _jpegs(names), names)


def _open_npz(
    path: Path, folder: Path | None = None, provenance: dict[str, Any] | None = None
) -> ImageSet:
    with RowFile(path, "arr_0") as rows:
        shape, dtype = rows.shape, rows.dtype
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
        raise MdtError(
            f"{path}: arr_0 is {dtype} {list(shape)}, but samples are uint8 [N, H, W, 3]",
            "write uint8 images, channels last",
        )
    if shape[0] == 0:
        raise MdtError(f"{path} holds no images", "arr_0 has no rows")
    return ImageSet(
        folder or path,
        "npz" if provenance is None else "sample folder",
        shape[0],
        (shape[1], shape[2]),
        0,
        (),
        file=path,
        provenance=provenance,
    )


def _provenance(folder: Path) -> dict[str, Any] | None:
    file = folder / "samples.json"
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MdtError(f"{file} is not readable JSON: {error}", "sample again, or remove it") from (
            error
        )
    if not isinstance(told, dict):
        raise MdtError(f"{file} is not a JSON object", "sample again, or remove it")
    return told


def _zip_bytes(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    # RuntimeError: an encrypted entry; NotImplementedError: a compression Python lacks.
    except (*BROKEN, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise _broken(path, name, error) from error


def _header(path: Path, name: str, raw: Path | bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as opened:
            return opened.height, opened.width
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise _broken(path, name, error) from error


def _broken(path: Path, name: str, error: BaseException) -> MdtError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is in no image format"
    return MdtError(
        f"{path}: {name} cannot be read: {reason}",
        "replace or remove it; a score over fewer images than meant would mislead",
    )


def _one_size(path: Path, sizes: Iterator[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    counts: Counter[tuple[int, int]] = Counter()
    first: dict[tuple[int, int], str] = {}
    for name, size in sizes:
        counts[size] += 1
        first.setdefault(size, name)
    if len(counts) > 1:
        told = [f"{n} of {w}x{h} ({first[h, w]})" for (h, w), n in counts.most_common(4)]
        more = f" and {len(counts) - 4} further sizes" if len(counts) > 4 else ""
        raise MdtError(
            f"{path} holds images of different sizes: {', '.join(told)}{more}",
            "crop and resize all of them to the size of the samples first",
        )
    return next(iter(counts))


def _jpegs(names: tuple[str, ...]) -> int:
    return sum(Path(name).suffix.lower() in {".jpg", ".jpeg"} for name in names)
