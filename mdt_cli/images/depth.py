"""Images of 16 bits a channel that hold fewer: read as they are they would be nearly black."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import Raw, is_deep_colour
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.open_image import UnreadableError, open_image

LOOKED_AT = 8
# The most that 12 bits hold.
TWELVE_BITS = 4095


def a_few(images: ImageSet) -> list[Raw]:
    """The content of a few images, evenly spread, as far as they can be read."""
    step = max(1, len(images) // LOOKED_AT)
    found = [raw for _, raw in images.read(range(0, len(images), step))]
    images.close()
    return [raw for raw in found if not isinstance(raw, UnreadableError)]


def check_depth(path: Path, few: Sequence[Raw], grey_hint: str) -> None:
    """MdtError where all 16-bit images among a few of `path` stay within 12 bits.

    `grey_hint` says what to do where they are grey; colour of 16 bits has no choice of white.
    """
    found = [entry for raw in few for entry in _brightest(raw)]
    highest = max((value for value, _ in found), default=0)
    if not 0 < highest <= TWELVE_BITS:
        return
    grey = not any(colour for _, colour in found)
    raise MdtError(
        f"the 16-bit images of {path} stay below {TWELVE_BITS + 1} of 65535 (the highest "
        f"value of those looked at is {highest}), as data of 12 bits or fewer do: they would be "
        "nearly black",
        grey_hint if grey else "scale their values to the full range, or to 8 bits, first",
    )


def _brightest(raw: Raw) -> list[tuple[int, bool]]:
    """The highest value of an image of 16 bits a channel, and whether it is in colour."""
    if isinstance(raw, np.ndarray):
        return []
    try:
        with open_image(raw) as image:
            if is_deep_colour(image):
                # Pillow keeps the upper byte of each value.
                return [((_highest(image.convert("RGB")) + 1) * 256 - 1, True)]
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                return [(_highest(image), False)]
    except UnreadableError:
        pass  # It is reported when it is encoded.
    return []


def _highest(image: Image.Image) -> int:
    return int(np.asarray(image).max())
