"""Random access into folders, archives and parquet files, for worker processes too."""

import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mdt_cli.images.decode import Raw
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.zip_reader import SMALL, USUAL

STORED, DEFLATED = 0, 8
# An image file larger than this, once unpacked, is taken for a decompression bomb.
MAX_BYTES = 1 << 30


class Reader(Protocol):
    """Picklable while closed; each worker process has its own copy and opens files on first use."""

    def read(self, location: Any) -> Raw:
        """The image at a location of this container, still encoded, or its path or its pixels.

        Raises OSError or UnreadableError with a reason.
        """

    def files(self, locations: Sequence[Any]) -> set[Path]:
        """The files that hold the images at these locations."""

    def close(self) -> None:
        """Close what is open; reading again opens it again."""


@dataclass(frozen=True)
class FolderReader:
    """Locations are paths relative to `root`."""

    root: Path

    def read(self, location: str) -> Path:
        """The path: a header can then be read without the rest of the file."""
        path = self.root / location
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("it is a pipe, a device or a folder, not a file")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES} bytes")
        return path

    def files(self, locations: Sequence[str]) -> set[Path]:
        """One file per location."""
        return {self.root / location for location in locations}

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True)
class Extent:
    """One member of an archive: its offset, its size as stored and unpacked, in bytes."""

    archive: int  # index of the archive among those of the reader
    offset: int
    stored: int
    size: int
    method: int = STORED
    crc: int | None = None  # None: unknown (tar); `offset` is then that of the data itself


@dataclass
class ArchiveReader:
    """Locations are extents of zip or tar files; the archive's directory is not read again."""

    paths: tuple[Path, ...]
    _open: tuple[int, BinaryIO] | None = field(default=None, repr=False)

    def read(self, location: Extent) -> bytes:
        """The unpacked bytes, after a check of their CRC where the archive has one."""
        if not 0 <= location.size <= MAX_BYTES or location.stored > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES} bytes")
        if location.size > SMALL and location.size > USUAL * location.stored:
            raise UnreadableError(f"decompression bomb: {location.size} bytes of few")
        file = self._file(location.archive)
        file.seek(location.offset)
        if location.crc is not None:
            # A zip entry: a local header of 30 bytes, a name and extras of their own lengths.
            head = file.read(30)
            if head[:4] != b"PK\x03\x04":
                raise UnreadableError("the zip is damaged here")
            name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:], "little")
            file.seek(location.offset + 30 + name + extra)
        data = file.read(location.stored)
        if len(data) < location.stored:
            raise UnreadableError("the archive ends in the middle of it")
        if location.method == DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, location.size or 1)
            except zlib.error as error:
                raise UnreadableError(f"cannot be unpacked: {error}") from error
        if location.crc is not None and zlib.crc32(data) != location.crc:
            raise UnreadableError("the zip's checksum does not match")
        return data

    def files(self, locations: Sequence[Extent]) -> set[Path]:
        """The archives that are read."""
        return {self.paths[location.archive] for location in locations}

    def _file(self, archive: int) -> BinaryIO:
        if self._open is None or self._open[0] != archive:
            if self._open is not None:
                self._open[1].close()
            self._open = (archive, self.paths[archive].open("rb"))
        return self._open[1]

    def close(self) -> None:
        """Close the archive that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


# What pyarrow raises for a damaged file: its own exceptions are subclasses of these, or of OSError.
PARQUET_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
)
# Bytes of a cell on average: a row group is read at once, and lists its sizes.
MAX_CELL_BYTES, MAX_GROUP_BYTES = 32 << 20, 16 << 30


def _refuse_large_cells(group: Any) -> None:
    # Not the sizes of its columns: pyarrow ends the process where their statistics are damaged.
    size = group.total_byte_size
    if size > MAX_CELL_BYTES * max(1, group.num_rows) or size > MAX_GROUP_BYTES:
        raise UnreadableError(
            f"a row group of {size:,} bytes in {group.num_rows} rows is too large to be read: "
            "write the table again with fewer rows in a group"
        )


@dataclass
class ParquetReader:
    """Locations are (file, row group, row in the group); the last row group read is kept."""

    paths: tuple[Path, ...]
    column: str
    _group: tuple[tuple[int, int], list[Any]] | None = field(default=None, repr=False)

    def read(self, location: tuple[int, int, int]) -> bytes:
        """The encoded image in that row of the image column."""
        import pyarrow.parquet

        file, group, row = location
        try:
            if self._group is None or self._group[0] != (file, group):
                self._group = None
                with pyarrow.parquet.ParquetFile(self.paths[file]) as table:
                    _refuse_large_cells(table.metadata.row_group(group))
                    column = table.read_row_group(group, columns=[self.column]).column(0)
                    self._group = ((file, group), column)
            cell = self._group[1][row].as_py()
        except PARQUET_FAULTS as error:
            raise UnreadableError(f"the parquet file is damaged here: {error}") from error
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise UnreadableError("the row holds no image bytes")
        return data

    def files(self, locations: Sequence[tuple[int, int, int]]) -> set[Path]:
        """The parquet files that are read."""
        return {self.paths[file] for file, _, _ in locations}

    def close(self) -> None:
        """Drop the row group that was kept."""
        self._group = None
