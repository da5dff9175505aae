"""idx files, as MNIST and its kin are published: images in one file, class numbers beside it."""

import gzip
import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import MAX_BYTES
from mdt_cli.images.image_set import ImageSet, make_set
from mdt_cli.images.layout import split_of
from mdt_cli.images.pixel_rows import PixelRowReader, as_images, rows_of
from mdt_cli.images.reading import AmbiguousSetError, Reading

UNSIGNED_BYTES = 8
# Ends of the names of image files, without `.gz`.
IMAGES = ("idx3-ubyte", "idx4-ubyte")


def is_idx(path: Path) -> bool:
    """Whether a name is that of an idx file of images or class numbers."""
    return path.name.removesuffix(".gz").endswith((*IMAGES, "idx1-ubyte"))


def from_idx(paths: Sequence[Path], path: Path, reading: Reading) -> ImageSet:
    """The images of one split of `paths`, with the class numbers that lie beside them.

    `train-images-idx3-ubyte` goes with `train-labels-idx1-ubyte`; each may be packed (`.gz`). Of
    several splits `train` is taken, and a note names the others.
    """
    images = [file for file in paths if file.name.removesuffix(".gz").endswith(IMAGES)]
    # Programs that download MNIST keep the packed files beside the unpacked ones.
    images = [file for file in images if file.suffix != ".gz" or file.with_suffix("") not in images]
    if not images:
        raise MdtError(
            f"{path} holds class numbers (idx1), no images",
            "give the file of images, such as train-images-idx3-ubyte, with the labels beside it",
        )
    chosen, notes = _one_file(images, path, reading)
    shape = load_idx_images(chosen).shape
    beside = labels_beside(chosen)
    if beside is None:
        notes += (f"no file of class numbers lies beside {chosen.name}: there are no classes",)
    find = None if beside is None else partial(_classes, beside, shape[0], reading)
    reader = PixelRowReader((chosen,), load_idx_images)
    size = (shape[1], shape[2])
    return make_set(path, "idx", reader, rows_of([chosen], [shape]), find, {}, notes, size)


def labels_beside(images: Path) -> Path | None:
    """The file of class numbers that belongs to a file of images."""
    plain = images.name.removesuffix(".gz")
    for end in IMAGES:
        plain = plain.replace(end, "idx1-ubyte")
    named = plain.replace("images", "labels")
    for name in (named, f"{named}.gz"):
        if name != images.name and images.with_name(name).is_file():
            return images.with_name(name)
    return None


def load_idx_images(path: Path) -> NDArray[np.uint8]:
    """The images of an idx file. Raises MdtError where it holds anything else."""
    return as_images(load_idx(path), str(path))


def load_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes, packed or not. Raises MdtError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MdtError(f"{path} cannot be read: {error}", "download it again") from error
    if len(data) > MAX_BYTES:
        raise MdtError(f"{path} holds more than {MAX_BYTES} bytes", "split it, or write an npz")
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTES or not data[3]:
        raise MdtError(
            f"{path} is no idx file of unsigned bytes: it begins with {data[:4].hex(' ')}",
            "download it again; other types of numbers are written as an npz of uint8 images",
        )
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], ">u4", len(data[4:start]) // 4).tolist())
    if len(shape) != data[3] or math.prod(shape) != len(data) - start:
        raise MdtError(
            f"{path} has {max(0, len(data) - start)} bytes for an array of {list(shape)}",
            "it is cut short or damaged: download it again",
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _classes(path: Path, count: int, reading: Reading) -> labels.Classes:
    numbers = load_idx(path)
    if numbers.shape != (count,):
        raise MdtError(
            f"{path} holds {list(numbers.shape)} class numbers for {count} images",
            "give files that belong together, or pass --unconditional",
        )
    return labels.from_values(numbers.tolist(), None, str(path), reading)


def _one_file(images: Sequence[Path], path: Path, reading: Reading) -> tuple[Path, tuple[str, ...]]:
    wanted = [file for file in images if reading.wants(file.name)]
    if len(images) == 1 or len(wanted) == 1:
        return (wanted or images)[0], ()
    training = [file for file in wanted if split_of(file.name) == "train"]
    listed = ", ".join(sorted(str(file.relative_to(path)) for file in images))
    if len(training) != 1:
        raise AmbiguousSetError(
            f"{path} holds several files of images: {listed}", f"give one of them: {images[0]}"
        )
    return training[0], (f"{path} holds several splits: {listed}; {training[0].name} is taken",)
