"""The one place that opens images: of which formats, how large, and what a broken one raises."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

# By content, whatever the suffix. Pillow knows more, some of which it hands to other programs
# (EPS to Ghostscript) or decodes with code that sees little use. TGA, known by no mark, is last.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
# More than this, before or after resizing, is taken for a decompression bomb (Pillow's own limit).
MAX_PIXELS = 89_478_485
# Decoders that need several times the memory of the pixels: this part of MAX_PIXELS.
SHARE_OF_PIXELS = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
# A JPEG of a few kilobytes may ask for thousands of passes over its pixels.
MAX_JPEG_WORK = 4_000_000_000
_JPEG_PASS = b"\xff\xda"
# Pillow's plugins let many kinds of exception through for a broken file.
_FAULTS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class UnreadableError(Exception):
    """An image that cannot be used, with the reason as its text."""


@contextmanager
def open_image(
    source: Path | bytes, formats: tuple[str, ...] = FORMATS, limited: bool = True
) -> Iterator[Image.Image]:
    """An image of one of `formats`, not yet decoded; UnreadableError for any fault of it, those
    that the block meets while it decodes included.

    limited: refuse more pixels than any stage decodes. False where only the header is read.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with readable(), warnings.catch_warnings():
        # Pillow warns of large images, odd EXIF and the like; the limits here decide.
        warnings.simplefilter("ignore")
        if not limited:
            Image.MAX_IMAGE_PIXELS = None
        try:
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=formats) as image:
                if limited:
                    _refuse_work(image, source)
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def readable() -> Iterator[None]:
    """Turn what goes wrong with an image into UnreadableError."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"decompression bomb: more than {MAX_PIXELS} pixels") from error
    except _FAULTS as error:
        raise UnreadableError(_reason(error)) from error


def refuse_bomb(width: int, height: int, share: int = 1) -> None:
    """UnreadableError for more pixels than are decoded: a part of MAX_PIXELS."""
    limit = MAX_PIXELS // share
    if width * height > limit:
        raise UnreadableError(f"decompression bomb: {width}x{height} is more than {limit} pixels")


def content(source: Path | bytes) -> bytes:
    """The encoded image."""
    return source if isinstance(source, bytes) else source.read_bytes()


def _refuse_work(image: Image.Image, source: Path | bytes) -> None:
    refuse_bomb(image.width, image.height, SHARE_OF_PIXELS.get(image.format or "", 1))
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        passes = content(source).count(_JPEG_PASS)
        if passes * image.width * image.height > MAX_JPEG_WORK:
            raise UnreadableError(
                f"decompression bomb: {passes} passes over {image.width}x{image.height} pixels"
            )


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image of a known format"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
