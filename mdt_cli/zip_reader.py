"""The one reader of zip files: what a damaged one raises, and how much of a member is unpacked."""

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
# What `zipfile` and what reads from it raise for a file that is damaged or was never a zip.
ZIP_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)
# The most that deflate packs into a byte, and what may be packed more tightly than `USUAL` at all.
TIGHTEST, USUAL, SMALL = 1040, 200, 64 << 20


def is_zip(path: Path) -> bool:
    """Whether a file ends as a zip does; a damaged end is none. Raises OSError."""
    try:
        return zipfile.is_zipfile(path)
    except ZIP_FAULTS as error:
        if isinstance(error, OSError):
            raise
        return False


def check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """ValueError where the sizes that the directory gives for a member cannot be."""
    stored, size = member.compress_size, member.file_size
    possible = size == stored if member.compress_type == STORED else size <= TIGHTEST * (stored + 1)
    if not possible or stored > path.stat().st_size:
        raise ValueError(f"{member.filename} cannot have {size:,} bytes, packed into {stored:,}")


def read_member(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> bytes:
    """The unpacked bytes of a member of at most `limit` bytes, packed no tighter than text is.

    Raises ValueError beyond that, and what is in ZIP_FAULTS.
    """
    member = archive.getinfo(name)
    check_member(member, path)
    if member.file_size > limit:
        raise ValueError(f"{name} is larger than {limit >> 20:,} MiB, the most that is read of one")
    if member.file_size > SMALL and member.file_size > USUAL * member.compress_size:
        raise ValueError(f"{name} is a decompression bomb")
    return archive.read(member)
