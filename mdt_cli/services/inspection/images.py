"""What images are, one or many; only their headers are read."""

from pathlib import Path
from typing import Any

from mdt_cli.artifacts.foreign_weights import refuse_torch_file
from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.cifar import is_batch
from mdt_cli.images.decode import Raw, stored_size
from mdt_cli.images.idx import is_idx
from mdt_cli.images.open_image import MAX_PIXELS, UnreadableError, open_image
from mdt_cli.images.reading import Reading
from mdt_cli.images.refused import refused_format
from mdt_cli.json_reader import parse_json
from mdt_cli.services.inspection.inspected import Inspected, unknown

PNG_TEXT = "mdt"
# Headers of so many images, evenly spread, are read for the range of sizes.
IMAGES_READ = 200


def images(path: Path, reading: Reading) -> Inspected:
    """Layout, classes and sizes of a set of images. Raises MdtError where there are none."""
    try:
        source = open_images(path, reading)
        if source.fault is not None:
            raise source.fault
    except MdtError as error:
        message = f"{path} is no artifact of mdt, and its images cannot be listed: "
        raise MdtError(message + error.message, error.hint) from error
    sizes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    for name, raw in source.read(range(0, len(source), max(1, len(source) // IMAGES_READ))):
        try:
            sizes.append(_size(raw))
        except (UnreadableError, OSError):
            unreadable.append(name)
    source.close()
    counts = {name: source.labels.count(k) for k, name in enumerate(source.classes)}
    facts: dict[str, Any] = {"layout": source.kind, "count": len(source), "classes": counts}
    if sizes:
        widths, heights = zip(*sizes, strict=True)
        facts["width"] = [min(widths), max(widths)]
        facts["height"] = [min(heights), max(heights)]
    if source.notes:
        facts["notes"] = list(source.notes)
    facts |= {"looked at": len(sizes) + len(unreadable), "unreadable": unreadable}
    return Inspected(path, "images", facts | {"ignored files": dict(source.ignored)})


def _size(raw: Raw | UnreadableError) -> tuple[int, int]:
    if isinstance(raw, UnreadableError):
        raise raw
    width, height = stored_size(raw)
    if width * height > MAX_PIXELS:
        raise UnreadableError("more pixels than any stage reads")
    return width, height


def any_images(path: Path, reading: Reading) -> Inspected:
    """A file that its suffix does not name: of rows of images, of one image, or refused by name."""
    if is_idx(path) or is_batch(path):
        return images(path, reading)
    return image_file(path)


def image_file(path: Path) -> Inspected:
    """One image file, and how it was made if it is a sample of ours."""
    try:
        with open_image(path, limited=False) as image:
            facts: dict[str, Any] = {
                "format": image.format,
                "size": list(image.size),
                "mode": image.mode,
            }
            made = image.info.get(PNG_TEXT)
    except UnreadableError as error:
        refuse_torch_file(path)
        raise refused_format(path) or unknown(path) from error
    try:
        how = parse_json(made) if isinstance(made, str | bytes) else None
    except ValueError:
        how = None
    if not isinstance(how, dict):
        return Inspected(path, "image", facts)
    return Inspected(path, "sample", facts | {"made by": how})
