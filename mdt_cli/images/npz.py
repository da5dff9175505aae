"""npz files: images as rows of `arr_0`, read one by one and never unpickled."""

import json
import math
import shlex
import tokenize
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.decode import Pixels
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.reading import EVERYTHING, Reading
from mdt_cli.zip_reader import SMALL, USUAL, ZIP_FAULTS, check_member

IMAGES, LABELS = "arr_0", "arr_1"
# A truncated or foreign file shows itself as any of these, by where it broke.
BROKEN = (*ZIP_FAULTS, tokenize.TokenError)
# Values of one row: the pixels of the largest image that is read.
MAX_ROW_BYTES = 1 << 30
# Rows that may be packed into less than a byte each.
FEW_ROWS = 1_000_000


def from_npz(path: Path, reading: Reading = EVERYTHING) -> ImageSet:
    """The rows of `arr_0`, uint8 [N,H,W,3], [N,H,W,1] or [N,H,W], with the classes in `arr_1`.

    Row 5 is named `arr_0[5]`. Raises MdtError for an npz without images.
    """
    held = keys(path)
    if {"mu", "sigma"} <= held and IMAGES not in held:
        raise MdtError(
            f"{path} holds statistics of a reference, not images",
            f"the reference comes last: mdt evaluate SAMPLES {path}",
        )
    if IMAGES not in held:
        raise _other_names(path, held)
    with RowFile(path, IMAGES) as rows:
        shape, dtype, checksum = rows.shape, rows.dtype, rows.checksum
    grey = len(shape) == 3 and min(shape[1:]) > 3
    if dtype != np.uint8 or not (grey or (len(shape) == 4 and shape[3] in (1, 3))):
        raise MdtError(
            f"{path}: {IMAGES} is {dtype} {list(shape)}, but images are uint8 [N, H, W, 3]",
            "write uint8 images, channels last",
        )
    if 0 in shape:
        raise MdtError(f"{path} holds no images", f"{IMAGES} has no rows")
    numbers = load_arrays(path, frozenset({LABELS})).get(LABELS) if LABELS in held else None
    find = None
    if numbers is not None and _are_labels(numbers, reading):
        find = partial(_classes, numbers, shape[0], path, reading)
    # The checksum is of all rows: where one of them changes, the set is another.
    stamp = "x".join(str(side) for side in shape[1:]) + f" {checksum:08x}"
    images = [Found(f"{IMAGES}[{row}]", row, stamp) for row in range(shape[0])]
    return make_set(path, "npz", NpzReader(path), images, find, {}, size=(shape[1], shape[2]))


def _are_labels(numbers: NDArray[Any], reading: Reading) -> bool:
    # Version 0.1 left out what was not a row of whole numbers.
    return not reading.by_first_rules or (numbers.ndim == 1 and numbers.dtype.kind in "iu")


def _classes(values: NDArray[Any], count: int, path: Path, reading: Reading) -> labels.Classes:
    row = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    whole = row.dtype.kind in "iuU" or (row.dtype.kind == "f" and bool((row == row.round()).all()))
    if row.ndim != 1 or not whole:
        raise MdtError(
            f"{path}: {LABELS} is {values.dtype} {list(values.shape)}, but classes are one whole "
            "number or name for each image",
            "write them as integers [N], or pass --unconditional",
        )
    if len(row) != count:
        raise MdtError(f"{path} has {len(row)} labels for {count} images")
    found = row.astype(np.int64) if row.dtype.kind == "f" else row
    return labels.from_values(found.tolist(), None, str(path), reading)


def _other_names(path: Path, held: frozenset[str]) -> MdtError:
    """The error for arrays of other names, with the command that writes them under ours."""
    facts = {name: _shape_of(path, name) for name in sorted(held)}
    listed = ", ".join(f"{name} {list(facts[name] or ())}" for name in list(facts)[:8]) or "nothing"
    message = f"{path} has no {IMAGES} (it holds {listed})"
    rows = [name for name, shape in facts.items() if shape is not None and _is_images(shape)]
    rows.sort(key=lambda name: ("train" not in name, name))
    if not rows:
        return MdtError(message, f"images in an npz are named {IMAGES}: uint8 [N, H, W, 3]")
    name, count = rows[0], (facts[rows[0]] or (0,))[0]
    kin = [
        other
        for other, shape in facts.items()
        if other != name and shape in ((count,), (count, 1)) and _same_split(name, other)
    ]
    target = path.with_name(f"{path.stem}-{name}.npz")
    shape = facts[name] or ()
    turned = ".transpose(0, 2, 3, 1)" if len(shape) == 4 and shape[3] not in (1, 3) else ""
    classes = f", arr_1=d[{json.dumps(kin[0])}]" if kin else ""
    program = (
        f"import numpy; d = numpy.load({json.dumps(str(path))}); "
        f"numpy.savez({json.dumps(str(target))}, arr_0=d[{json.dumps(name)}]{turned}{classes})"
    )
    return MdtError(
        message,
        f"images in an npz are named {IMAGES} and class numbers {LABELS}; this writes {target}: "
        f"python -c {shlex.quote(program)}",
    )


def _is_images(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return min(shape[1:]) > 3
    return len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3))


def _same_split(images: str, other: str) -> bool:
    return all((word in images) == (word in other) for word in ("train", "test", "val"))


def _shape_of(path: Path, name: str) -> tuple[int, ...] | None:
    try:
        with RowFile(path, name) as rows:
            return rows.shape
    except MdtError:
        return None


@dataclass
class NpzReader:
    """Locations are rows of `arr_0`."""

    path: Path
    _rows: "RowFile | None" = field(default=None, repr=False)

    def read(self, location: int) -> Pixels:
        """uint8 [H,W,3]; a single channel is repeated."""
        if self._rows is None:
            self._rows = RowFile(self.path, IMAGES)
        pixels_HWC = self._rows.row(location)
        if pixels_HWC.ndim == 2:
            pixels_HWC = pixels_HWC[..., None]
        return pixels_HWC if pixels_HWC.shape[2] == 3 else np.repeat(pixels_HWC, 3, axis=2)

    def files(self, locations: Sequence[int]) -> set[Path]:
        """The npz."""
        return {self.path}

    def close(self) -> None:
        """Close the npz."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None


def keys(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except BROKEN as error:
        raise _broken(path, error) from error


def load_arrays(path: Path, names: frozenset[str]) -> dict[str, NDArray[Any]]:
    """The arrays asked for that are there; an array of Python objects is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.removesuffix(".npy") in names:
                    check_member(member, path)
                    if member.file_size > max(SMALL, USUAL * member.compress_size):
                        raise ValueError(f"{member.filename} is a decompression bomb")
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in sorted(names) if name in stored.files}
    except BROKEN as error:
        raise _broken(path, error) from error
    for name, array in found.items():
        # numpy gives the bytes of a member that is no array.
        if not isinstance(array, np.ndarray):
            raise _broken(path, ValueError(f"{name} is no array"))
    return found


class RowFile:
    """One array of an npz as a stream of rows: 10 GB of samples need the memory of one row."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        try:
            self._archive = zipfile.ZipFile(path)
        except BROKEN as error:
            raise _broken(path, error) from error
        if f"{name}.npy" not in self._archive.namelist():
            held = ", ".join(sorted(keys(path))) or "nothing"
            self._archive.close()
            raise MdtError(
                f"{path} has no {name} (it holds {held})", f"images in an npz are named {name}"
            )
        member = self._archive.getinfo(f"{name}.npy")
        self.checksum = member.CRC
        try:
            check_member(member, path)
            self._stream: IO[bytes] = self._archive.open(f"{name}.npy")
            version = np.lib.format.read_magic(self._stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, fortran, self.dtype = read(self._stream)
            self._begin, self._next = self._stream.tell(), 0
            self._check_size(member)
        except BROKEN as error:
            self._archive.close()
            raise _broken(path, error) from error
        if fortran and len(self.shape) > 1:
            self._archive.close()
            raise MdtError(
                f"{path}: {name} is stored column by column", "save np.ascontiguousarray of it"
            )

    def _check_size(self, member: zipfile.ZipInfo) -> None:
        """ValueError where the header promises more than the member can hold."""
        if min(self.shape, default=0) < 0:
            raise ValueError(f"its shape is {list(self.shape)}")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if row > MAX_ROW_BYTES:
            raise ValueError(f"a row of {row:,} bytes is larger than any image")
        count = self.shape[0] if self.shape else 1
        if count > max(FEW_ROWS, member.compress_size):
            raise ValueError(f"{count:,} rows cannot lie in {member.compress_size:,} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the npz; nothing can be read any more."""
        self._stream.close()
        self._archive.close()

    def read(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Each row with its number; only those of `wanted`, where given.

        Cheap in ascending order, in one call or in several: a packed array cannot be entered in
        the middle, and going back reads it from its beginning.
        """
        for index in range(self.shape[0]) if wanted is None else wanted:
            yield index, self.row(index)

    def row(self, index: int) -> NDArray[Any]:
        """One row. Raises MdtError where the file is damaged or ends before it."""
        row_shape = self.shape[1:]
        size = math.prod(row_shape) * self.dtype.itemsize
        try:
            if index != self._next:
                self._stream.seek(self._begin + index * size)
            data = self._stream.read(size)
        except BROKEN as error:
            raise _broken(self._path, error) from error
        if len(data) != size:
            raise MdtError(
                f"{self._path}: {self._name} ends after {index} of {self.shape[0]} rows",
                "the file is truncated: copy or write it again",
            )
        self._next = index + 1
        return np.frombuffer(data, self.dtype).reshape(row_shape)


def _broken(path: Path, error: BaseException) -> MdtError:
    return MdtError(
        f"{path} is not a readable npz: {error}", "it may be truncated: copy or write it again"
    )
