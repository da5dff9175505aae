"""Where the bytes of one item lie, and how a worker process fetches them."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mdt_cli.images.decode import UnreadableError

STORED, DEFLATED = 0, 8
# One picture larger than this when unpacked is taken for a bomb.
MAX_BYTES = 1 << 30


class Reader(Protocol):
    """Picklable; each worker process has its own copy and opens files on first use."""

    def read(self, place: Any) -> bytes:
        """The bytes at a place of this source. Raises OSError or UnreadableError with a reason."""

    def close(self) -> None:
        """Let go of what is open; reading again opens it again."""


@dataclass(frozen=True)
class FolderReader:
    """Places are paths relative to `root`."""

    root: Path

    def read(self, place: str) -> bytes:
        path = self.root / place
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES} bytes")
        return path.read_bytes()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Extent:
    """A stretch of an archive: where it starts, how long it is stored and unpacked, how packed."""

    archive: int
    offset: int
    stored: int
    size: int
    method: int = STORED
    crc: int | None = None  # None: not known (tar); `offset` is then the data itself


@dataclass
class ArchiveReader:
    """Places are extents of zip or tar files, read without the archive's table of contents."""

    paths: tuple[Path, ...]
    _open: tuple[int, BinaryIO] | None = field(default=None, repr=False)

    def read(self, place: Extent) -> bytes:
        if place.size > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES} bytes")
        file = self._file(place.archive)
        file.seek(place.offset)
        if place.crc is not None:
            # A zip entry: a local header of 30 bytes, a name and extras of their own lengths.
            head = file.read(30)
            if head[:4] != b"PK\x03\x04":
                raise UnreadableError("the zip is damaged here")
            name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:], "little")
            file.seek(place.offset + 30 + name + extra)
        data = file.read(place.stored)
        if len(data) < place.stored:
            raise UnreadableError("the archive ends in the middle of it")
        if place.method == DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, place.size or 1)
            except zlib.error as error:
                raise UnreadableError(f"cannot be unpacked: {error}") from error
        if place.crc is not None and zlib.crc32(data) != place.crc:
            raise UnreadableError("the zip's checksum does not match")
        return data

    def _file(self, archive: int) -> BinaryIO:
        if self._open is None or self._open[0] != archive:
            if self._open is not None:
                self._open[1].close()
            self._open = (archive, self.paths[archive].open("rb"))
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


@dataclass
class ParquetReader:
    """Places are (file, row group, row in the group); the last row group read is kept."""

    paths: tuple[Path, ...]
    column: str
    _group: tuple[tuple[int, int], list[Any]] | None = field(default=None, repr=False)

    def read(self, place: tuple[int, int, int]) -> bytes:
        import pyarrow.parquet

        file, group, row = place
        if self._group is None or self._group[0] != (file, group):
            with pyarrow.parquet.ParquetFile(self.paths[file]) as table:
                column = table.read_row_group(group, columns=[self.column]).column(0)
                self._group = ((file, group), column)
        cell = self._group[1][row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise UnreadableError("the row holds no image bytes")
        return data

    def close(self) -> None:
        self._group = None
