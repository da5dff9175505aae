"""One encoded picture: its size from the header, its pixels as 8-bit RGB."""

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mdt_cli.errors import MdtError

Pixels = NDArray[np.uint8]

# More than 8 bits per channel: turning these into RGB would clip or wrap without a word.
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# What Pillow raises for a broken file, by format: its own and its decoders' errors.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def picture_size(where: Path, name: str, raw: Path | bytes) -> tuple[int, int]:
    """(height, width) as the header says. MdtError names the picture where it has none."""
    try:
        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as opened:
            return opened.height, opened.width
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise broken(where, name, error) from error


def picture_pixels(where: Path, name: str, raw: Path | bytes) -> Pixels:
    """uint8 [H,W,3]."""
    try:
        with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as opened:
            opened.load()
            if opened.mode in DEEP_MODES:
                raise MdtError(
                    f"{where}: {name} has more than 8 bits per channel ({opened.mode})",
                    "convert it to an 8-bit RGB or grey image first",
                )
            return np.asarray(opened.convert("RGB"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise broken(where, name, error) from error


def broken(where: Path, name: str, error: BaseException) -> MdtError:
    """The sentence for a picture that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is in no image format"
    return MdtError(
        f"{where}: {name} cannot be read: {reason}",
        "replace or remove it; a score over fewer images than meant would mislead",
    )


def one_size(path: Path, sizes: Iterator[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    """The (height, width) that all pictures have; MdtError counts the sizes where they differ."""
    counts: Counter[tuple[int, int]] = Counter()
    first: dict[tuple[int, int], str] = {}
    for name, size in sizes:
        counts[size] += 1
        first.setdefault(size, name)
    if len(counts) > 1:
        told = [f"{n} of {w}x{h} ({first[h, w]})" for (h, w), n in counts.most_common(4)]
        more = f" and {len(counts) - 4} further sizes" if len(counts) > 4 else ""
        raise MdtError(
            f"{path} holds images of different sizes: {', '.join(told)}{more}",
            "crop and resize all of them to the size of the samples first",
        )
    return next(iter(counts))
