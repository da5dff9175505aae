"""The class of each image, as the layout of a set tells it; no class where it tells none."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images.files import as_text

# Folders of these names are parts of a data set, not classes.
SPLITS = frozenset({"train", "val", "valid", "validation", "test", "dev"})
# Keys under which the JSON beside an image of a WebDataset names its class.
JSON_KEYS = ("label", "cls", "class_label", "class")


def provenance(folder: Path) -> dict[str, Any] | None:
    """`samples.json` of a sample folder; None for any other."""
    file = folder / "samples.json"
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MdtError(f"{file} is not readable JSON: {error}", "sample again, or remove it") from (
            error
        )
    if not isinstance(told, dict):
        raise MdtError(f"{file} is not a JSON object", "sample again, or remove it")
    return told


def from_folders(names: Sequence[str]) -> tuple[str, ...] | None:
    """The first folder of each path; one folder around everything is looked through."""
    split = [name.split("/") for name in names]
    while all(len(parts) > 2 for parts in split) and len({parts[0] for parts in split}) == 1:
        split = [parts[1:] for parts in split]
    if any(len(parts) < 2 for parts in split):
        return None
    classes = [as_text(parts[0]) for parts in split]
    if len(set(classes)) < 2 or set(classes) <= SPLITS:
        return None
    return tuple(classes)


def from_listing(listing: bytes, names: Sequence[str]) -> tuple[str, ...] | None:
    """EDM's `dataset.json`: `{"labels": [[name, number], ...]}`."""
    try:
        rows = json.loads(listing).get("labels")
        by_name = {str(name): str(label) for name, label in rows or ()}
    except (ValueError, TypeError, AttributeError):
        return None
    found = [by_name.get(name) for name in names]
    return None if None in found else tuple(name for name in found if name is not None)


def from_provenance(told: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...] | None:
    """What `samples.json` says: a label for each seed, and `000007.png` is seed 7.

    Without `names` the samples are rows of an npz, in the order of the seeds.
    """
    labels = told.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        return None
    classes = told.get("class_names") or []
    shown = [str(classes[k]) if 0 <= k < len(classes) else str(k) for k in labels]
    if not names:
        return tuple(shown)
    seeds = _seeds(str(told.get("seeds", "")))
    if len(seeds) != len(shown):
        return None
    by_seed = dict(zip(seeds, shown, strict=True))
    found = [by_seed.get(int(name.rpartition("/")[2].partition(".")[0])) for name in names]
    return None if None in found else tuple(name for name in found if name is not None)


def from_beside(data: bytes, suffix: str) -> str | None:
    """The class that a `.cls` or `.json` file beside an image names."""
    text = data.decode("utf-8", "replace").strip()
    if suffix == ".cls":
        return text or None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    return next((str(entry[key]) for key in JSON_KEYS if key in entry), None)


def matched(
    samples: Sequence[str] | None, reference: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[str]] | None:
    """Both sets' classes in the same words, or None where there is no way to tell.

    Class numbers on one side stand for the sorted names of the other.
    """
    if samples is None or reference is None:
        return None
    ours, theirs = set(samples), set(reference)
    if ours <= theirs:
        return samples, reference
    if _numbers(ours) and not _numbers(theirs):
        named = _named(samples, theirs)
        return None if named is None else (named, reference)
    if _numbers(theirs) and not _numbers(ours):
        named = _named(reference, ours)
        return None if named is None else (samples, named)
    return (samples, reference) if ours & theirs else None


def _numbers(classes: set[str]) -> bool:
    return all(name.isdigit() for name in classes)


def _named(numbers: Sequence[str], classes: set[str]) -> list[str] | None:
    names = sorted(classes)
    if max(int(number) for number in numbers) >= len(names):
        return None
    return [names[int(number)] for number in numbers]


def _seeds(text: str) -> list[int]:
    """`0-9,20` as numbers."""
    seeds: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return []
        seeds += range(int(first), int(last or first) + 1)
    return seeds
