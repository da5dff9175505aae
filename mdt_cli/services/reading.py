"""The options of a command that say how a set of images is read."""

from collections.abc import Sequence

from mdt_cli.images.reading import Reading

SAMPLES_ONLY = "--samples-only"


def reading_of(only: Sequence[str] | None, only_option: str = "--only") -> Reading:
    """By the newest rules of order, what the options of a command ask for."""
    return Reading(only=tuple(only or ()), only_option=only_option)
