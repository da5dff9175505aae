"""CIFAR's batches, python and binary version, and pickles of the same form such as ImageNet32's."""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.image_set import ImageSet, make_set
from mdt_cli.images.pixel_rows import PixelRowReader, rows_of
from mdt_cli.images.plain_pickle import as_words, plain_entries, whole_file
from mdt_cli.images.reading import Reading

BATCH = re.compile(r"(train_)?data_batch_\d+$|test_batch$|val_data$|train$|test$")
BINARY = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin$")
META = ("batches.meta", "meta", "batches.meta.txt", "fine_label_names.txt")
# Bytes before the pixels of a row of the binary version: its classes, of which the last is fine.
BINARY_SIDE, BINARY_LABELS = 32, {3073: 1, 3074: 2}
_LABELS = ("labels", "fine_labels")
_NAMES = ("label_names", "fine_label_names")


def is_batch(path: Path) -> bool:
    """Whether a file is a batch of CIFAR: by its name, and the mark of a pickle where it is one."""
    if BINARY.fullmatch(path.name):
        return True
    if not BATCH.fullmatch(path.name):
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\x80"
    except OSError:
        return False


def from_batches(paths: Sequence[Path], path: Path, reading: Reading) -> ImageSet:
    """The images of the training batches, in the order of their names, with their classes.

    Test batches are left out, and a note says so, unless only they are given.
    """
    paths = sorted(paths, key=lambda file: reading.key(file.name))
    wanted = [file for file in paths if reading.wants(file.name)]
    if not wanted:
        raise MdtError(
            f"{reading.only_option} {' '.join(reading.only)} names none of the batches of {path}",
            f"the first is {paths[0].name}",
        )
    chosen = [f for f in wanted if not f.name.startswith(("test", "val"))] or wanted
    if reading.only:
        chosen = wanted
    left = [file.name for file in wanted if file not in chosen]
    notes: tuple[str, ...] = ()
    if left:
        notes = (f"{', '.join(left)} left out; {reading.only_option} {left[0]} reads it alone",)
    loaded = [_rows(file) for file in chosen]
    numbers: list[int] | None = []
    for file, (_, values) in zip(chosen, loaded, strict=True):
        if (values is None) != (numbers is None and file != chosen[0]) and file != chosen[0]:
            raise MdtError(f"only some of the batches of {path} have labels", "give one data set")
        numbers = None if values is None or numbers is None else numbers + values
    names = class_names(chosen[0].parent)
    find = None
    if numbers is not None:
        find = partial(labels.from_values, numbers, names, str(path), reading)
    shapes = [pixels.shape for pixels, _ in loaded]
    sizes = {shape[1:3] for shape in shapes}
    if len(sizes) > 1:
        raise MdtError(f"the batches of {path} have images of several sizes", "give one data set")
    reader = PixelRowReader(tuple(chosen), load_batch)
    images = rows_of(chosen, shapes)
    return make_set(path, "cifar", reader, images, find, {}, notes, size=sizes.pop())


def load_batch(path: Path) -> NDArray[np.uint8]:
    """The images of a batch, uint8 [N,H,W,3]."""
    return _rows(path)[0]


def class_names(folder: Path) -> list[str] | None:
    """The names of the classes, where a file beside the batches has them."""
    for name in META:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix == ".txt":
            listed = file.read_text("utf-8", errors="replace").split("\n")
            return [line.strip() for line in listed if line.strip()]
        found = plain_entries(file)
        lists = [found[key] for key in _NAMES if isinstance(found.get(key), list)]
        names = lists[0] if lists else []
        if names and all(isinstance(name, bytes | str) for name in names):
            return [as_words(name) for name in names]
    return None


def _rows(path: Path) -> tuple[NDArray[np.uint8], list[int] | None]:
    if path.suffix == ".bin":
        return _binary_rows(path)
    found = plain_entries(path)
    data = _row_data(found.get("data"))
    side = 0 if data is None else math.isqrt(data.shape[1] // 3)
    if data is None or data.shape[1] != 3 * side**2:
        held = ", ".join(sorted(map(str, found))[:8])
        raise MdtError(
            f"{path} is no batch of CIFAR: no data, uint8 [N, 3 x H x H] (it holds {held})",
            "write the images as an npz: arr_0 uint8 [N, H, W, 3], arr_1 class numbers",
        )
    pixels = np.ascontiguousarray(data.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))
    numbers = next((found[key] for key in _LABELS if key in found), None)
    if isinstance(numbers, np.ndarray):
        numbers = numbers.tolist()
    if numbers is None:
        return pixels, None
    whole = isinstance(numbers, list) and all(isinstance(number, int) for number in numbers)
    if not whole or len(numbers) != len(pixels):
        raise MdtError(
            f"the labels of {path} are not one whole number for each of its {len(pixels)} images",
            "download it again",
        )
    return pixels, numbers


def _binary_rows(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    data = np.frombuffer(whole_file(path), np.uint8)
    # The files of CIFAR-100 have these names.
    width = 3074 if path.name in ("train.bin", "test.bin") else 3073
    if not len(data) or len(data) % width:
        raise MdtError(
            f"{path} has {len(data)} bytes, which are no rows of {width}",
            "it is cut short, or no batch of CIFAR's binary version: download it again",
        )
    rows, labelled = data.reshape(-1, width), BINARY_LABELS[width]
    pixels = rows[:, labelled:].reshape(-1, 3, BINARY_SIDE, BINARY_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), rows[:, labelled - 1].tolist()


def _row_data(data: Any) -> NDArray[np.uint8] | None:
    rows = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and len(data)
    return data if rows else None
