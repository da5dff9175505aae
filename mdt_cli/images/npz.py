"""npz files, read row by row and never unpickled."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from mdt_cli.errors import MdtError

# A truncated or foreign file shows itself as any of these, by where it broke.
BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError)


def keys(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except BROKEN as error:
        raise _broken(path, error) from error


def load(path: Path, names: frozenset[str]) -> dict[str, NDArray[Any]]:
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
        self._stream.close()
        self._archive.close()

    def read(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Each row with its number; only those of `wanted`, where given.

        Cheap in ascending order, in one call or in several: a packed array cannot be entered in
        the middle, and going back reads it from its beginning.
        """
        row_shape = self.shape[1:]
        size = int(np.prod(row_shape)) * self.dtype.itemsize
        chosen = range(self.shape[0]) if wanted is None else wanted
        for index in chosen:
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
            yield index, np.frombuffer(data, self.dtype).reshape(row_shape)


def _broken(path: Path, error: BaseException) -> MdtError:
    return MdtError(
        f"{path} is not a readable npz: {error}", "it may be truncated: copy or write it again"
    )
