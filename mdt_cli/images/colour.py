"""Colour profiles: what an image means by its numbers, converted to sRGB."""

import io
import string
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Modes whose numbers a profile of that colour space describes.
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# A profile that moves no value by more than this is sRGB itself, however it is called.
SAME = 1
LONGEST_NAME = 40
_PLAIN = frozenset(string.ascii_letters + string.digits + " .-_()+")


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """An image of mode RGB, L or CMYK with its profile applied, and what was done.

    Where there is no profile, or one of sRGB itself, the image as it is, and None.
    """
    if not profile or image.mode not in SPACES:
        return image, None
    transform, done = _transform(profile, image.mode)
    if transform is None:
        return image, done
    return ImageCms.applyTransform(image, transform) or image, done


@lru_cache(64)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """(the transform to sRGB, its description), or (None, why the profile is not applied)."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if given.profile.xcolor_space.strip() != SPACES[mode]:
            return None, "ICC profile of another colour space left out"
        name = "".join(c for c in ImageCms.getProfileDescription(given).strip() if c in _PLAIN)
        srgb = ImageCms.createProfile("sRGB")
        # A table of few steps, which is lcms's way with grey, is coarse where curves are steep.
        exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(given, srgb, mode, "RGB", flags=exact)
        probe = _probe(mode)
        moved = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "unreadable ICC profile left out"
    if moved is None or (mode != "CMYK" and _difference(probe, moved) <= SAME):
        return None, None
    return transform, f"ICC profile {name[:LONGEST_NAME] or 'without a name'} to sRGB"


def _probe(mode: str) -> Image.Image:
    """An image of colours that lie evenly in the space."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    axes = np.meshgrid(*[steps] * len(mode), indexing="ij")
    return Image.frombytes(mode, (axes[0].size, 1), np.stack(axes, -1).tobytes())


def _difference(before: Image.Image, after: Image.Image) -> int:
    values = np.asarray(before.convert("RGB")).astype(int) - np.asarray(after)
    return int(np.abs(values).max())
