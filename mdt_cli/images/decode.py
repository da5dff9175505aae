"""From any image to upright 8-bit RGB, the same for training and for scoring on every machine."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

Pixels = npt.NDArray[np.uint8]
# An image as its container holds it: encoded, the path of a file, or pixels [H,W,3].
Raw = Path | bytes | Pixels

# What `read_image` does, for manifests and reports.
CROP = "upright (EXIF), alpha over white, halved by box, bicubic, centre square"
# More than this, before or after resizing, is taken for a decompression bomb (Pillow's own limit).
MAX_PIXELS = 89_478_485
# What transparent pixels are laid over.
BACKGROUND = "white"
# Values of the EXIF orientation that exchange width and height.
SIDEWAYS = (5, 6, 7, 8)
# Formats that lose detail, AVIF but for rare exceptions.
LOSSY = ("JPEG", "MPO", "AVIF")
# What a PNG calls the blocks that may hold an orientation; they may lie behind its pixels.
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class UnreadableError(Exception):
    """An image that cannot be used, with the reason as its text."""


@dataclass(frozen=True)
class DecodedImage:
    """`pixels` uint8 [3,S,S]; `mode` as stored (RGB, L, ...); `enlarged` if it was smaller."""

    pixels: Pixels
    mode: str
    enlarged: bool


@dataclass(frozen=True)
class ImageHeader:
    """`size` (height, width) once upright; `lossy` by the content, not by the suffix."""

    size: tuple[int, int]
    lossy: bool


def read_image(raw: Raw, size: int) -> DecodedImage:
    """Decode, turn upright, lay over white, crop to `size`. Raises UnreadableError."""
    if isinstance(raw, np.ndarray):
        mode, enlarged, pixels = "RGB", min(raw.shape[:2]) < size, crop_pixels(raw, size)
        return DecodedImage(np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode, enlarged)
    with _reasons(), warnings.catch_warnings():
        # Pillow warns of large images, odd EXIF and the like; MAX_PIXELS below decides.
        warnings.simplefilter("ignore")
        with _opened(_content(raw)) as image:
            mode, upright = image.mode, as_rgb(image)
        enlarged = min(upright.size) < size
        pixels = np.asarray(centre_crop(upright, size))
    return DecodedImage(np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode, enlarged)


def read_pixels(raw: Raw, size: int | None = None) -> Pixels:
    """uint8 [H,W,3] as `read_image` has them; cropped only where a size is given."""
    if isinstance(raw, np.ndarray):
        return raw if size is None else crop_pixels(raw, size)
    with _reasons():
        with _opened(raw) as image:
            upright = as_rgb(image)
        return np.asarray(upright if size is None else centre_crop(upright, size))


def crop_pixels(pixels_HWC: Pixels, size: int) -> Pixels:
    """The crop of `read_image` for an image that is decoded, uint8 [H,W,3]."""
    return np.asarray(centre_crop(Image.fromarray(pixels_HWC), size))


def read_image_header(raw: Raw) -> ImageHeader:
    """Size and compression, without decoding. Raises UnreadableError."""
    if isinstance(raw, np.ndarray):
        return ImageHeader((raw.shape[0], raw.shape[1]), lossy=False)
    with _reasons(), _opened(raw) as image:
        lossy = image.format in LOSSY or image.info.get("compression") in ("jpeg", "tiff_jpeg")
        if image.format == "WEBP":
            found = re.search(rb"VP8[ L]", _content(raw)[12:])
            lossy = found is not None and found[0] == b"VP8 "
        return ImageHeader(_upright_size(image, raw), lossy)


def stored_size(raw: Raw) -> tuple[int, int]:
    """(width, height) as stored, of an image of any size; raises what Pillow raises."""
    if isinstance(raw, np.ndarray):
        return raw.shape[1], raw.shape[0]
    with unlimited_header(raw) as image:
        return image.size


@contextmanager
def unlimited_header(raw: Path | bytes) -> Iterator[Image.Image]:
    """An image of which only the header is read; Pillow's limit of pixels does not apply."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(BytesIO(raw) if isinstance(raw, bytes) else raw) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def as_rgb(image: Image.Image) -> Image.Image:
    """The image upright in RGB: turned by EXIF, alpha laid over white.

    Grey of 0..65535 and floats of 0..1 are scaled to 0..255; UnreadableError outside these ranges.
    """
    image.load()
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        return _from_floats(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, BACKGROUND)
        return Image.alpha_composite(under, over).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The square crop of ADM (Dhariwal & Nichol 2021): halve by boxes, then bicubic, then crop.

    A smaller image is enlarged until its short side is `size`.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if (width, height) != image.size:
        _refuse_bomb(width, height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) == (size, size):
        return image
    return image.crop((left, top, left + size, top + size))


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        # Most small data sets: the search for a rotation costs a tenth of decoding.
        return image
    try:
        return ImageOps.exif_transpose(image)
    # The pixels were decoded; an EXIF block that cannot be parsed gives no rotation.
    except Exception:  # noqa: BLE001
        return image


def _upright_size(image: Image.Image, source: Path | bytes) -> tuple[int, int]:
    """(height, width) that `_upright` gives; decodes only where the header does not suffice."""
    if image.height == image.width:
        return image.height, image.width
    if image.format == "PNG" and not any(name in _content(source) for name in PNG_EXIF):
        return image.height, image.width
    if image.format in ("PNG", "TIFF"):
        # A PNG may hold its orientation behind the pixels, a TIFF is turned on loading.
        image.load()
    turned = _orientation(image) in SIDEWAYS
    return (image.width, image.height) if turned else (image.height, image.width)


def _from_integers(image: Image.Image) -> Image.Image:
    """16-bit grey: all of 0..65535 is scaled to 0..255 (Pillow's own conversion would clip)."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableError("32-bit integer pixels outside 0..65535: their range is not known")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UnreadableError("floating-point pixels outside 0..1: their range is not known")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        _refuse_bomb(image.width, image.height)
        yield image


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # As in `_upright`.
    except Exception:  # noqa: BLE001
        return 1


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever goes wrong into UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"decompression bomb: more than {MAX_PIXELS} pixels") from error
    # Pillow's plugins let many kinds of exception through for a broken file; an image that
    # cannot be decoded is listed with its reason, whatever it was.
    except Exception as error:
        raise UnreadableError(_reason(error)) from error


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableError(
            f"decompression bomb: {width}x{height} is more than {MAX_PIXELS} pixels"
        )


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
