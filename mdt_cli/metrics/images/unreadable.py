"""Encoded pictures that cannot be used, and sets of more than one size: the sentences for them."""

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import UnreadableError

# What reading a damaged entry of a zip raises. RuntimeError: it is encrypted;
# NotImplementedError: a compression Python lacks.
BROKEN = (
    *(OSError, ValueError, EOFError, RuntimeError, NotImplementedError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def zip_bytes(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except BROKEN as error:
        raise broken(path, name, error) from error


@contextmanager
def blamed(where: Path, name: str) -> Iterator[None]:
    """What is wrong with a picture, with its name."""
    try:
        yield
    except UnreadableError as error:
        raise broken(where, name, error) from error


def broken(where: Path, name: str, error: BaseException) -> MdtError:
    """The sentence for a picture that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return MdtError(
        f"{where}: {name} cannot be read: {reason}",
        "replace or remove it; a score over fewer images than meant would mislead",
    )


def one_size(
    path: Path, counts: Counter[tuple[int, int]], first: Mapping[tuple[int, int], str]
) -> tuple[int, int]:
    """The (height, width) that all pictures have; MdtError counts the sizes where they differ."""
    if len(counts) > 1:
        told = [f"{n} of {w}x{h} ({first[h, w]})" for (h, w), n in counts.most_common(4)]
        more = f" and {len(counts) - 4} further sizes" if len(counts) > 4 else ""
        raise MdtError(
            f"{path} holds images of different sizes: {', '.join(told)}{more}",
            "pass --size N, N the side of the samples: it crops every set as "
            "`mdt encode-latents --size N` does",
        )
    return next(iter(counts))
