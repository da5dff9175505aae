"""The sets of images that can be scored, whatever they lie in."""

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import read_header
from mdt_cli.images.files import SUFFIXES, is_hidden, is_image, is_packed_tar, refuse_run, walk
from mdt_cli.images.npz import RowFile, keys, load
from mdt_cli.metrics.images import labels
from mdt_cli.metrics.images.archives import is_cache, list_cache, list_tars
from mdt_cli.metrics.images.image_set import ImageSet as ImageSet
from mdt_cli.metrics.images.image_set import read_raw
from mdt_cli.metrics.images.unreadable import blamed, one_size, zip_bytes
from mdt_cli.metrics.statistics import conversion

EDM_LABELS = "dataset.json"
# Of a set whose headers were not looked at.
UNKNOWN = (0, 0)


def open_images(path: Path, crop: int | None = None) -> ImageSet:
    """List the images at `path` and check, from their headers, that they have one size.

    With `crop` each is cropped to a square of that side when it is read, and sizes may differ.
    A folder is searched recursively in sorted order; a folder with `samples.json` is a sample
    folder, where only numbered images (or the one npz) are samples, so a grid beside them is not.
    """
    if crop is not None and crop < 1:
        raise MdtError(f"--size {crop} is too small", "give a number from 1")
    images = _listed(path)
    counts = Counter({images.size: images.count})
    if images.size == UNKNOWN:
        images, counts = _measured(images, crop)
    if crop is None:
        return images
    if images.kind == "latent cache" and images.size != (crop, crop):
        raise MdtError(
            f"{path} holds images cropped to {images.size[0]}, which --size {crop} would crop "
            "once more",
            f"give the images it was made from, or leave --size {crop} out",
        )
    return replace(
        images,
        size=(crop, crop),
        crop=crop,
        resized=sum(n for size, n in counts.items() if size != (crop, crop)),
        enlarged=sum(n for size, n in counts.items() if min(size) < crop),
    )


def _measured(images: ImageSet, crop: int | None) -> tuple[ImageSet, Counter[tuple[int, int]]]:
    """The set with what its headers tell, and how many images have each size."""
    counts: Counter[tuple[int, int]] = Counter()
    first: dict[tuple[int, int], str] = {}
    jpegs = 0
    for name, raw in read_raw(images):
        assert not isinstance(raw, np.ndarray)  # the size of those is known
        with blamed(images.path, name):
            header = read_header(raw)
        counts[header.size] += 1
        first.setdefault(header.size, name)
        jpegs += header.lossy
    size = one_size(images.path, counts, first) if crop is None else (crop, crop)
    return replace(images, size=size, jpegs=jpegs), counts


def _listed(path: Path) -> ImageSet:
    if not path.exists():
        raise MdtError(f"{path} does not exist", "give a folder, a zip or an npz of images")
    if path.is_dir():
        refuse_run(path)
        return _open_cache(path) if is_cache(path) else _open_folder(path)
    if path.suffix.lower() == ".npz":
        return _open_npz(path)
    # A tar whose last member is a zip also ends as a zip does.
    if path.suffix.lower() == ".tar":
        return _open_tars([path], path)
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
    if is_packed_tar(path.name):
        raise MdtError(f"{path} is a packed tar", "unpack it to .tar, or to a folder, first")
    raise MdtError(
        f"{path} is neither a folder, a zip, a tar nor an npz",
        "images are read from a folder, a zip, a tar, an npz with arr_0, a sample folder or a "
        "latent cache of pixels",
    )


def _open_folder(path: Path) -> ImageSet:
    provenance = labels.provenance(path)
    files = [name for name, _ in walk(path) if not is_hidden(name)]
    found = sorted(filter(is_image, files))
    if provenance is not None:
        found = [name for name in found if re.fullmatch(r"\d+", Path(name).stem)]
        arrays = sorted(path.glob("*.npz"))
        if not found and len(arrays) == 1:
            return _open_npz(arrays[0], folder=path, provenance=provenance)
    tars = sorted(name for name in files if name.lower().endswith(".tar"))
    if not found and tars and provenance is None:
        return _open_tars([path / name for name in tars], path)
    if not found:
        raise MdtError(
            f"{path} holds no images", f"expected {', '.join(sorted(SUFFIXES))} at any depth"
        )
    names = tuple(found)
    if provenance is None:
        listing = path / EDM_LABELS
        told = labels.from_listing(listing.read_bytes(), names) if listing.is_file() else None
        classes = told or labels.from_folders(names)
        if classes is not None:
            _refuse_empty_class(path, names)
        return ImageSet(path, "folder", len(names), UNKNOWN, 0, names, classes=classes)
    return ImageSet(
        path,
        "sample folder",
        len(names),
        UNKNOWN,
        0,
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
        and not is_hidden(entry.name)
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
    listed = list_tars(files, path if path.is_dir() else path.parent)
    if not listed.names:
        raise MdtError(f"{path} holds no images", "a tar of images holds PNG or JPEG files")
    return ImageSet(
        path,
        "tar",
        len(listed.names),
        UNKNOWN,
        0,
        listed.names,
        classes=listed.classes,
        places=listed.places,
    )


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


def _open_zip(path: Path) -> ImageSet:
    with zipfile.ZipFile(path) as archive:
        held = archive.namelist()
        names = tuple(sorted(name for name in held if is_image(name) and not is_hidden(name)))
        if not names:
            raise MdtError(f"{path} holds no images", "a zip of samples holds PNG files")
        told = None
        if EDM_LABELS in held:
            told = labels.from_listing(zip_bytes(path, archive, EDM_LABELS), names)
    classes = told or labels.from_folders(names)
    return ImageSet(path, "zip", len(names), UNKNOWN, 0, names, classes=classes)


def _open_npz(
    path: Path, folder: Path | None = None, provenance: dict[str, Any] | None = None
) -> ImageSet:
    if {"mu", "sigma"} <= (held := keys(path)) and "arr_0" not in held:
        raise MdtError(
            f"{path} holds statistics of a reference, not images",
            f"the reference comes last: mdt evaluate SAMPLES {path}",
        )
    with RowFile(path, "arr_0") as rows:
        shape, dtype = rows.shape, rows.dtype
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
        raise MdtError(
            f"{path}: arr_0 is {dtype} {list(shape)}, but samples are uint8 [N, H, W, 3]",
            "write uint8 images, channels last",
        )
    if 0 in shape:
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
