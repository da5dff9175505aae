"""Names a person may give to `mdt evaluate`."""

from difflib import get_close_matches
from typing import Literal, TypeVar

from mdt_cli.errors import MdtError

MetricName = Literal["fid", "is", "precision", "recall", "kid"]
ExtractorName = Literal["inception", "efficientnet-lite0"]
ResizeName = Literal["clean", "legacy_tensorflow"]
Name = TypeVar("Name", bound=str)
METRICS: tuple[MetricName, ...] = ("fid", "is", "precision", "recall", "kid")
EXTRACTORS: tuple[ExtractorName, ...] = ("inception", "efficientnet-lite0")
RESIZES: tuple[ResizeName, ...] = ("clean", "legacy_tensorflow")
# What can be had from stored statistics alone: the score of the samples and the distance.
METRICS_OF_STATISTICS: tuple[MetricName, ...] = ("fid", "is")


def choose(flag: str, given: str | None, names: tuple[Name, ...]) -> Name | None:
    """One of `names`, or None where nothing was given."""
    if given is None:
        return None
    for name in names:
        if name == given.strip():
            return name
    near = get_close_matches(given, names, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise MdtError(f"{flag}: no {given}{meant}", f"there are: {', '.join(names)}")


def choose_several(
    flag: str, given: str | None, names: tuple[Name, ...]
) -> tuple[Name, ...] | None:
    """Some of `names` from a comma-separated list, or None where nothing was given."""
    if given is None:
        return None
    found = [choose(flag, part, names) for part in given.split(",") if part.strip()]
    if not found:
        raise MdtError(f"{flag} is empty", f"there are: {', '.join(names)}")
    return tuple(name for name in found if name is not None)
