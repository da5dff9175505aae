"""npz files: images as rows of `arr_0`, read one by one and never unpickled."""

import zipfile
import zlib
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

IMAGES, LABELS = "arr_0", "arr_1"
# A truncated or foreign file shows itself as any of these, by where it broke.
BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError)


def from_npz(path: Path) -> ImageSet:
    """The rows of `arr_0`, uint8 [N,H,W,3] or [N,H,W,1], with classes from the integers in `arr_1`.

    Row 5 is named `arr_0[5]`. Raises MdtError for an npz without images.
    """
    if {"mu", "sigma"} <= (held := keys(path)) and IMAGES not in held:
        raise MdtError(
            f"{path} holds statistics of a reference, not images",
            f"the reference comes last: mdt evaluate SAMPLES {path}",
        )
    with RowFile(path, IMAGES) as rows:
        shape, dtype, checksum = rows.shape, rows.dtype, rows.checksum
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
        raise MdtError(
            f"{path}: {IMAGES} is {dtype} {list(shape)}, but images are uint8 [N, H, W, 3]",
            "write uint8 images, channels last",
        )
    if 0 in shape:
        raise MdtError(f"{path} holds no images", f"{IMAGES} has no rows")
    numbers = load_arrays(path, frozenset({LABELS})).get(LABELS) if LABELS in held else None
    find = None
    if numbers is not None and numbers.ndim == 1 and numbers.dtype.kind in "iu":
        find = partial(_classes, numbers.tolist(), shape[0], path)
    # The checksum is of all rows: where one of them changes, the set is another.
    stamp = "x".join(str(side) for side in shape[1:]) + f" {checksum:08x}"
    images = [Found(f"{IMAGES}[{row}]", row, stamp) for row in range(shape[0])]
    return make_set(path, "npz", NpzReader(path), images, find, {}, size=(shape[1], shape[2]))


def _classes(numbers: list[int], count: int, path: Path) -> labels.Classes:
    if len(numbers) != count:
        raise MdtError(f"{path} has {len(numbers)} labels for {count} images")
    return labels.from_values(numbers, None, str(path))


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
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in sorted(names) if name in stored.files}
    except BROKEN as error:
        raise _broken(path, error) from error


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
        self.checksum = self._archive.getinfo(f"{name}.npy").CRC
        try:
            self._stream: IO[bytes] = self._archive.open(f"{name}.npy")
            version = np.lib.format.read_magic(self._stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, fortran, self.dtype = read(self._stream)
            self._begin, self._next = self._stream.tell(), 0
        except BROKEN as error:
            self._archive.close()
            raise _broken(path, error) from error
        if fortran and len(self.shape) > 1:
            self._archive.close()
            raise MdtError(
                f"{path}: {name} is stored column by column", "save np.ascontiguousarray of it"
            )

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
        size = int(np.prod(row_shape)) * self.dtype.itemsize
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
