"""The sets of images that can be scored, whatever they lie in, read as 8-bit RGB."""

import hashlib
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mdt_cli.core.metrics import labels
from mdt_cli.core.metrics.archives import Stretch, is_cache, list_cache, list_tars
from mdt_cli.core.metrics.arrays import RowFile, keys, load
from mdt_cli.core.metrics.moments import conversion
from mdt_cli.core.metrics.pictures import (
    BROKEN,
    broken,
    one_size,
    picture_pixels,
    picture_size,
)
from mdt_cli.core.metrics.pictures import Pixels as Pixels
from mdt_cli.errors import MdtError

Raw = Path | bytes | Pixels

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"})
EDM_LABELS = "dataset.json"


@dataclass(frozen=True)
class ImageSet:
    """Images at one place, all of one size, listed but not yet read."""

    path: Path
    kind: str  # "folder", "sample folder", "zip", "npz", "tar" or "latent cache"
    count: int
    size: tuple[int, int]  # (height, width)
    jpegs: int  # how many are stored as JPEG
    names: tuple[str, ...] = field(repr=False)  # empty for npz
    file: Path | None = None  # the npz, where `path` is a folder that holds it
    provenance: dict[str, Any] | None = None  # `samples.json`
    classes: tuple[str, ...] | None = field(default=None, repr=False)  # of each image
    places: tuple[Stretch, ...] = field(default=(), repr=False)  # of a tar or cache


def open_images(path: Path) -> ImageSet:
    """List the images at `path` and check, from their headers, that they have one size.

    A folder is searched recursively in sorted order; a folder with `samples.json` is a sample
    folder, where only numbered images (or the one npz) are samples, so a grid beside them is not.
    """
    if not path.exists():
        raise MdtError(f"{path} does not exist", "give a folder, a zip or an npz of images")
    if path.is_dir():
        return _open_cache(path) if is_cache(path) else _open_folder(path)
    if path.suffix.lower() == ".npz":
        return _open_npz(path)
    if zipfile.is_zipfile(path):
        return _open_zip(path)
    if path.suffix.lower() == ".zip":
        raise MdtError(f"{path} is not a readable zip", "it may be truncated: copy it again")
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise MdtError(
            f"{path} is a pickle, which may run any code when it is opened",
            "if you trust its maker, turn an entry of it into an npz: of EDM2's files that of "
            f"Inception\n  {conversion(path, 'fid')}\n  or, for --extractor dinov2, that of "
            f"DINOv2\n  {conversion(path, 'fd_dinov2')}",
        )
    if path.suffix.lower() == ".tar":
        return _open_tars([path], path)
    raise MdtError(
        f"{path} is neither a folder, a zip, a tar nor an npz",
        "images are read from a folder, a zip, a tar, an npz with arr_0, a sample folder or a "
        "latent cache of pixels",
    )


def read_raw(images: ImageSet, wanted: Sequence[int] | None = None) -> Iterator[tuple[str, Raw]]:
    """Every image, still encoded, with a name to blame; constant memory for any set.

    `wanted`: only the images at these ascending positions.
    """
    chosen = range(images.count) if wanted is None else wanted
    if images.places:
        yield from _read_stretches(images, chosen)
    elif images.kind == "zip":
        with zipfile.ZipFile(images.path) as archive:
            for name in (images.names[k] for k in chosen):
                yield name, _zip_bytes(images.path, archive, name)
    elif images.names:
        for name in (images.names[k] for k in chosen):
            yield name, images.path / name
    else:
        source = images.file or images.path
        with RowFile(source, "arr_0") as rows:
            for index, row in rows.read(chosen):
                yield f"arr_0[{index}]", row


def pixels_at(images: ImageSet, positions: Sequence[int]) -> list[Pixels]:
    """The decoded images at some positions, in the order asked for."""
    ascending = sorted(set(positions))
    found = {
        position: decode(images, name, raw)
        for position, (name, raw) in zip(ascending, read_raw(images, ascending), strict=True)
    }
    return [found[position] for position in positions]


def decode(images: ImageSet, name: str, raw: Raw) -> Pixels:
    """uint8 [H,W,3] of one image, of the size its header promised."""
    if isinstance(raw, np.ndarray):
        return raw if raw.shape[2] == 3 else np.repeat(raw, 3, axis=2)
    return picture_pixels(images.path, name, raw)


def pixel_digest(pixels_HWC: Pixels) -> bytes:
    """SHA-256 of an image's size and pixels: the same in a folder, a zip or an npz."""
    shape = struct.pack("<2I", pixels_HWC.shape[0], pixels_HWC.shape[1])
    return hashlib.sha256(shape + np.ascontiguousarray(pixels_HWC).tobytes()).digest()


def _open_folder(path: Path) -> ImageSet:
    provenance = labels.provenance(path)
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
    tars = sorted(path.rglob("*.tar"))
    if not found and tars and provenance is None:
        return _open_tars(tars, path)
    if not found:
        raise MdtError(
            f"{path} holds no images", f"expected {', '.join(sorted(EXTENSIONS))} at any depth"
        )
    names = tuple(file.relative_to(path).as_posix() for file in found)
    size = one_size(path, ((name, picture_size(path, name, path / name)) for name in names))
    if provenance is None:
        listing = path / EDM_LABELS
        told = labels.from_listing(listing.read_bytes(), names) if listing.is_file() else None
        classes = told or labels.from_folders(names)
        if classes is not None:
            _refuse_empty_class(path, names)
        return ImageSet(path, "folder", len(names), size, _jpegs(names), names, classes=classes)
    return ImageSet(
        path,
        "sample folder",
        len(names),
        size,
        _jpegs(names),
        names,
        provenance=provenance,
        classes=labels.from_provenance(provenance, names),
    )


def _refuse_empty_class(path: Path, names: Sequence[str]) -> None:
    """A class folder without images is a class that was lost on the way."""
    filled = {name.partition("/")[0] for name in names}
    empty = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.is_dir()
        and not entry.name.startswith(".")
        # Where a stopped evaluation of this very folder keeps its features.
        and entry.suffix != ".work"
        and entry.name not in filled
    )
    if empty:
        raise MdtError(
            f"{path}: the class folder {empty[0]} holds no images",
            "fill it, or remove it if the class is meant to be left out",
        )


def _open_tars(files: list[Path], path: Path) -> ImageSet:
    listed = list_tars(files, path if path.is_dir() else path.parent, EXTENSIONS)
    if not listed.names:
        raise MdtError(f"{path} holds no images", "a tar of images holds PNG or JPEG files")
    images = ImageSet(
        path,
        "tar",
        len(listed.names),
        (0, 0),
        _jpegs(listed.names),
        listed.names,
        classes=listed.classes,
        places=listed.places,
    )
    sizes = (
        (name, picture_size(path, name, raw))
        for name, raw in _read_stretches(images, range(images.count))
        if isinstance(raw, bytes)
    )
    return replace(images, size=one_size(path, sizes))


def _open_cache(path: Path) -> ImageSet:
    listed, side = list_cache(path)
    return ImageSet(
        path,
        "latent cache",
        len(listed.names),
        (side, side),
        0,
        listed.names,
        classes=listed.classes,
        places=listed.places,
    )


def _read_stretches(images: ImageSet, chosen: Sequence[int]) -> Iterator[tuple[str, Raw]]:
    """Bytes of a tar's images; pixels of a cache's."""
    for file, group in groupby(chosen, lambda k: images.places[k].file):
        try:
            with file.open("rb") as stream:
                for position in group:
                    place, name = images.places[position], images.names[position]
                    stream.seek(place.offset)
                    data = stream.read(place.size)
                    if len(data) != place.size:
                        raise MdtError(
                            f"{file} ends in the middle of {name}", "copy or make it again"
                        )
                    if images.kind == "latent cache":
                        planes = np.frombuffer(data, np.uint8).reshape(3, *images.size)
                        yield name, np.ascontiguousarray(planes.transpose(1, 2, 0))
                    else:
                        yield name, data
        except OSError as error:
            raise MdtError(f"cannot read {file}: {error.strerror or error}") from error


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
        sizes = (
            (name, picture_size(path, name, _zip_bytes(path, archive, name))) for name in names
        )
        size = one_size(path, sizes)
        told = None
        if EDM_LABELS in archive.namelist():
            told = labels.from_listing(_zip_bytes(path, archive, EDM_LABELS), names)
    classes = told or labels.from_folders(names)
    return ImageSet(path, "zip", len(names), size, _jpegs(names), names, classes=classes)


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
    classes = labels.from_provenance(provenance, ()) if provenance else None
    if classes is None and "arr_1" in keys(path):
        numbers = load(path, frozenset({"arr_1"}))["arr_1"]
        if numbers.ndim == 1 and numbers.dtype.kind in "iu":
            classes = tuple(str(number) for number in numbers.tolist())
    if classes is not None and len(classes) != shape[0]:
        classes = None
    return ImageSet(
        folder or path,
        "npz" if provenance is None else "sample folder",
        shape[0],
        (shape[1], shape[2]),
        0,
        (),
        file=path,
        provenance=provenance,
        classes=classes,
    )


def _zip_bytes(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    # RuntimeError: an encrypted entry; NotImplementedError: a compression Python lacks.
    except (*BROKEN, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise broken(path, name, error) from error


def _jpegs(names: tuple[str, ...]) -> int:
    return sum(Path(name).suffix.lower() in {".jpg", ".jpeg"} for name in names)
