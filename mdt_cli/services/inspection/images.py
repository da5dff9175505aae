"""What pictures are, one or many; their headers alone are read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_source
from mdt_cli.images.decode import MAX_PIXELS, UnreadableError
from mdt_cli.services.inspection.inspected import Inspected, unknown

PNG_TEXT = "mdt"
# Headers of so many images, evenly spread, are read for the range of sizes.
IMAGES_READ = 200


def images(path: Path) -> Inspected:
    try:
        source = open_source(path)
    except MdtError as error:
        message = f"{path} is nothing that mdt made, and its images cannot be listed: "
        raise MdtError(message + error.message, error.hint) from error
    sizes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    step = max(1, len(source) // IMAGES_READ)
    for name, place in list(zip(source.names, source.places, strict=True))[::step]:
        try:
            sizes.append(_size(source.reader.read(place)))
        except (UnreadableError, OSError, SyntaxError, ValueError):
            unreadable.append(name)
    source.reader.close()
    counts = {name: source.labels.count(k) for k, name in enumerate(source.classes)}
    facts: dict[str, Any] = {"layout": source.kind, "count": len(source), "classes": counts}
    if sizes:
        widths, heights = zip(*sizes, strict=True)
        facts["width"] = [min(widths), max(widths)]
        facts["height"] = [min(heights), max(heights)]
    facts |= {"looked at": len(sizes) + len(unreadable), "unreadable": unreadable}
    return Inspected(path, "images", facts | {"ignored files": dict(source.ignored)})


def _size(data: bytes) -> tuple[int, int]:
    with _header(BytesIO(data)) as image:
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableError("more pixels than any stage reads")
    return width, height


@contextmanager
def _header(file: Path | BytesIO) -> Iterator[Image.Image]:
    """A picture of any size: Pillow's limit is for pixels, and none are read here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(file) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def picture(path: Path) -> Inspected:
    try:
        with _header(path) as image:
            facts: dict[str, Any] = {
                "format": image.format,
                "size": list(image.size),
                "mode": image.mode,
            }
            made = image.info.get(PNG_TEXT)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise unknown(path) from error
    if made is None:
        return Inspected(path, "picture", facts)
    try:
        return Inspected(path, "sample", facts | {"made by": json.loads(made)})
    except ValueError:
        return Inspected(path, "picture", facts)
