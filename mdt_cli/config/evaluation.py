"""Names a person may give to `mdt evaluate`."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar, get_args

from mdt_cli.errors import MdtError

MetricName = Literal[
    "fid",
    "sfid",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
    "kid",
    "cmmd",
    "memorisation",
    "fid_infinity",
]
ExtractorName = Literal["inception", "efficientnet-lite0", "dinov2", "clip"]
ResizeName = Literal["clean", "legacy_tensorflow", "legacy_pytorch"]
Name = TypeVar("Name", bound=str)
METRICS: tuple[MetricName, ...] = get_args(MetricName)
# What is computed where nothing was asked for, as far as extractor and reference have it.
DEFAULT_METRICS = frozenset({"fid", "sfid", "is", "precision", "recall", "kid", "cmmd"})
EXTRACTORS: tuple[ExtractorName, ...] = get_args(ExtractorName)
RESIZES: tuple[ResizeName, ...] = ("clean", "legacy_tensorflow", "legacy_pytorch")
# What can be had from stored statistics alone: the score of the samples and the distances.
METRICS_OF_STATISTICS: tuple[MetricName, ...] = ("fid", "sfid", "is", "fid_infinity")
# Distances of Gaussians: where the reference stores those, its images are not looked at.
FRECHET: frozenset[MetricName] = frozenset({"fid", "sfid", "fid_infinity"})
# What only one network can give, by the beginning of the extractor's name.
ONLY_OF: dict[MetricName, tuple[str, ...]] = {
    "sfid": ("inception",),
    "is": ("inception", "efficientnet-lite0"),
    "cmmd": ("clip",),
}
MODULE_FILES = frozenset({".pt", ".pt2", ".pth", ".ts"})


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


def choose_extractor_or_file(flag: str, given: str | None) -> ExtractorName | Path | None:
    """A name, or the path of a TorchScript or exported module."""
    if given is not None and Path(given.strip()).suffix.lower() in MODULE_FILES:
        return Path(given.strip())
    return choose(flag, given, EXTRACTORS)
