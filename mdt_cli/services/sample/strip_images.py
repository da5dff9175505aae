"""The images of a folder of strips, in the order by which the folder was begun."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.artifacts.sample_folder.png import recorded_settings
from mdt_cli.images.image_set import ImageSet, without_classes
from mdt_cli.images.reading import FIRST, Reading


def open_strip_images(path: Path, reading: Reading, strips: Path) -> ImageSet:
    """The images without classes; by the rules of version 0.1 where those began `strips`.

    Raises MdtError where they cannot be listed.
    """
    begun = recorded_settings(strips) or {}
    facts = begun.get("reconstruct")
    digest = facts.get("images_digest") if isinstance(facts, Mapping) else None
    if digest is not None:
        first = without_classes(open_images(path, replace(reading, order=FIRST)))
        if first.digest == digest:
            return first
    return without_classes(open_images(path, reading))
