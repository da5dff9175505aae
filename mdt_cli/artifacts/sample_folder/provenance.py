"""What `samples.json` records of the images beside it: how they were made, and their classes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mdt_cli.artifacts.sample_folder.png import MANIFEST
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import MAX_DIGITS, read_json


def provenance(folder: Path) -> dict[str, Any] | None:
    """`samples.json` of a sample folder; None for any other folder."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        facts = read_json(file)
    except (OSError, ValueError) as error:
        raise MdtError(
            f"{file} is not readable JSON: {error}", "sample again, or remove it"
        ) from error
    if not isinstance(facts, dict):
        raise MdtError(f"{file} is not a JSON object", "sample again, or remove it")
    return facts


def is_sample(name: str) -> bool:
    """Whether an image of a sample folder is a sample: `000007.png` is, `grid.png` is not."""
    return re.fullmatch(r"\d+", PurePosixPath(name).stem) is not None


def sample_classes(facts: Mapping[str, Any], names: Sequence[str] | None) -> list[str] | None:
    """The class of each sample, where all have one: a label for each seed, the number in a name.

    Without `names` the samples are rows of an npz, in the order of the seeds.
    """
    labels = facts.get("labels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        return None
    known = facts.get("class_names")
    known = known if isinstance(known, list) else []
    shown = [str(known[k]) if 0 <= k < len(known) else str(k) for k in labels]
    if names is None:
        return shown
    seeds = _seeds(str(facts.get("seeds", "")), len(shown))
    if len(seeds) != len(shown):
        return None
    by_seed = dict(zip(seeds, shown, strict=True))
    found = [by_seed.get(_number(name)) for name in names]
    return None if None in found else [name for name in found if name is not None]


def _number(name: str) -> int:
    digits = PurePosixPath(name).stem
    return int(digits) if len(digits) <= MAX_DIGITS else -1


def _seeds(text: str, most: int) -> list[int]:
    """`0-9,20` as numbers; none where the text is not that, or more than `most`."""
    seeds: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        ends = (first, last or first)
        if not all(end.isascii() and end.isdigit() and len(end) <= MAX_DIGITS for end in ends):
            return []
        if int(ends[1]) - int(ends[0]) >= most - len(seeds):
            return []
        seeds += range(int(ends[0]), int(ends[1]) + 1)
    return seeds
