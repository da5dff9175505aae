"""From any image to upright 8-bit RGB, the same for training and for scoring on every machine."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from mdt_cli.images.colour import to_srgb
from mdt_cli.images.open_image import UnreadableError, content, open_image, readable, refuse_bomb
from mdt_cli.images.pixel_rule import FULL_WHITE, RULE, PixelRule

Pixels = npt.NDArray[np.uint8]
# An image as its container holds it: encoded, the path of a file, or pixels [H,W,3].
Raw = Path | bytes | Pixels

# What transparent pixels are laid over.
BACKGROUND = "white"
# Pixels that are converted at a time, where a conversion needs a multiple of their memory.
STRIP_PIXELS = 4 << 20
# Values of the EXIF orientation that exchange width and height.
SIDEWAYS = (5, 6, 7, 8)
# Formats that lose detail, AVIF but for rare exceptions.
LOSSY = ("JPEG", "MPO", "AVIF")
# What a PNG calls the blocks that may hold an orientation; they may lie behind its pixels.
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class DecodedImage:
    """`pixels` uint8 [3,S,S]; `enlarged` if it was smaller.

    `mode` as stored (RGB, L, ...) with what a viewer might not expect: `I;16; 0..65535 to 0..255`.
    """

    pixels: Pixels
    mode: str
    enlarged: bool


@dataclass(frozen=True)
class ImageHeader:
    """`size` (height, width) once upright; `lossy` by the content, not by the suffix."""

    size: tuple[int, int]
    lossy: bool


def read_image(raw: Raw, size: int, rule: PixelRule = RULE) -> DecodedImage:
    """Decode, turn upright, convert to sRGB, lay over white, crop to `size`. UnreadableError."""
    if isinstance(raw, np.ndarray):
        mode, enlarged, pixels = "RGB", min(raw.shape[:2]) < size, crop_pixels(raw, size)
        return DecodedImage(np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode, enlarged)
    with readable():
        mode, upright = _decoded(content(raw), rule)
        enlarged = min(upright.size) < size
        pixels = np.asarray(centre_crop(upright, size))
    return DecodedImage(np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode, enlarged)


def read_pixels(raw: Raw, size: int | None = None) -> Pixels:
    """uint8 [H,W,3] as `read_image` has them; cropped only where a size is given."""
    if isinstance(raw, np.ndarray):
        return raw if size is None else crop_pixels(raw, size)
    with readable():
        _, upright = _decoded(raw, RULE)
        return np.asarray(upright if size is None else centre_crop(upright, size))


def crop_pixels(pixels_HWC: Pixels, size: int) -> Pixels:
    """The crop of `read_image` for an image that is decoded, uint8 [H,W,3]."""
    return np.asarray(centre_crop(Image.fromarray(pixels_HWC), size))


def read_image_header(raw: Raw) -> ImageHeader:
    """Size and compression, without decoding. Raises UnreadableError."""
    if isinstance(raw, np.ndarray):
        return ImageHeader((raw.shape[0], raw.shape[1]), lossy=False)
    with open_image(raw) as image:
        lossy = image.format in LOSSY or image.info.get("compression") in ("jpeg", "tiff_jpeg")
        if image.format == "WEBP":
            found = re.search(rb"VP8[ L]", content(raw)[12:])
            lossy = found is not None and found[0] == b"VP8 "
        return ImageHeader(_upright_size(image, raw), lossy)


def stored_size(raw: Raw) -> tuple[int, int]:
    """(width, height) as stored, of an image of any size. Raises UnreadableError."""
    if isinstance(raw, np.ndarray):
        return raw.shape[1], raw.shape[0]
    with open_image(raw, limited=False) as image:
        return image.size


def _decoded(raw: Path | bytes, rule: PixelRule) -> tuple[str, Image.Image]:
    """The mode as stored and the image upright in RGB; nothing else of it stays in memory."""
    with open_image(raw) as image:
        words = [image.mode]
        if is_deep_colour(image):
            if rule.white != FULL_WHITE:
                raise UnreadableError("16-bit colour is read at full range alone")
            words = [f"{image.mode};16", "upper 8 of 16 bits"]
        elif image.mode.startswith("I"):
            words.append(f"0..{rule.white} to 0..255")
        # A JPEG of several images (MPO) has its main one first.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            words.append("first of several frames")
        mode = image.mode
        upright, profile = as_rgb(image, rule)
        if profile is not None:
            words.append(profile)
        # Version 0.1 recorded the mode alone.
        return "; ".join(words) if rule.profiles else mode, upright


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that is not yet loaded has 16 bits in each of several channels."""
    return image.mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK") and any(
        ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )


def as_rgb(image: Image.Image, rule: PixelRule = RULE) -> tuple[Image.Image, str | None]:
    """The image upright in sRGB, with alpha laid over white, and what its colour profile did.

    Grey of 0..white and floats of 0..1 are scaled to 0..255; UnreadableError outside these ranges.
    """
    image.load()
    profile = image.info.get("icc_profile") if rule.profiles else None
    image = _upright(image)
    transparent = "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return to_srgb(image, profile)
    if image.mode.startswith("I"):
        grey = _by_strips(image, partial(_from_integers, white=rule.white))
        return _grey_to_srgb(grey, profile)
    if image.mode == "F":
        return _by_strips(image, _from_floats), None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparent:
        return _over_background(image, profile)
    if image.mode in ("L", "CMYK"):
        converted, done = to_srgb(image, profile)
        return converted.convert("RGB"), done
    return to_srgb(image.convert("RGB"), profile)


def _grey_to_srgb(grey: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    if not profile:
        return grey, None
    converted, done = to_srgb(grey.getchannel(0), profile)
    return converted.convert("RGB"), done


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The square crop of ADM (Dhariwal & Nichol 2021): halve by boxes, then bicubic, then crop.

    A smaller image is enlarged until its short side is `size`.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if (width, height) != image.size:
        refuse_bomb(width, height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) == (size, size):
        return image
    return image.crop((left, top, left + size, top + size))


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        # Most small data sets: the search for a rotation costs a tenth of decoding.
        return image
    # The pixels were decoded; an EXIF block that cannot be parsed gives no rotation.
    with suppress(UnreadableError), readable():
        turned = ImageOps.exif_transpose(image)
        image.close()
        return turned
    return image


def _upright_size(image: Image.Image, source: Path | bytes) -> tuple[int, int]:
    """(height, width) that `_upright` gives; decodes only where the header does not suffice."""
    if image.height == image.width:
        return image.height, image.width
    if image.format == "PNG" and not any(name in content(source) for name in PNG_EXIF):
        return image.height, image.width
    if image.format in ("PNG", "TIFF"):
        # A PNG may hold its orientation behind the pixels, a TIFF is turned on loading.
        image.load()
    turned = _orientation(image) in SIDEWAYS
    return (image.width, image.height) if turned else (image.height, image.width)


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` to RGB, a strip at a time: what it needs beside the image stays small."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    if image.height <= rows:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(convert(strip), (0, top))
    return whole


def _over_background(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    if not profile:
        return _by_strips(image, _laid_over), None
    alpha = image.convert("RGBA").getchannel("A")
    # A profile of grey describes the one channel that there is.
    plain = image.convert("L" if image.mode in ("L", "LA", "La") else "RGB")
    converted, done = to_srgb(plain, profile)
    converted = converted.convert("RGB")
    converted.putalpha(alpha)
    return _by_strips(converted, _laid_over), done


def _laid_over(image: Image.Image) -> Image.Image:
    over = image.convert("RGBA")
    under = Image.new("RGBA", over.size, BACKGROUND)
    return Image.alpha_composite(under, over).convert("RGB")


def _from_integers(image: Image.Image, white: int) -> Image.Image:
    """16-bit grey: all of 0..white is scaled to 0..255 (Pillow's own conversion would clip)."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > FULL_WHITE:
        raise UnreadableError("32-bit integer pixels outside 0..65535: their range is not known")
    if values.max() > white:
        raise UnreadableError(f"it has the value {values.max()}, above --white {white}")
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UnreadableError("floating-point pixels outside 0..1: their range is not known")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    # As in `_upright`.
    with suppress(UnreadableError), readable():
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
