"""What the words of a sampling command mean: seeds, classes, and keys of `[sampling]`."""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from mdt_cli.config.faults import wording
from mdt_cli.config.sampling import ConstantGuidanceConfig, NoGuidanceConfig, SamplingConfig
from mdt_cli.config.suggestions import nearest_value
from mdt_cli.core.sampling.seeds import LARGEST_SEED
from mdt_cli.errors import MdtError
from mdt_cli.images.labels import other_number

MOST_SEEDS = 10_000_000
SHOWN_CLASSES = 8
NUMBER = re.compile(r"-?[0-9]+")
SEEDS_HINT = 'seeds look like "0-63", "1,5,9" or "0-9,20"'


def parse_seeds(text: str) -> list[int]:
    """Seeds such as "0-9,20" (both ends included), in the order given.

    MdtError for what is malformed, backward or repeated, for a seed above LARGEST_SEED and for more
    than MOST_SEEDS.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if found is None:
            raise MdtError(f'--seeds "{text}": "{part.strip()}" is not a seed', SEEDS_HINT)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise MdtError(f'--seeds "{text}": {part.strip()} runs backwards', SEEDS_HINT)
        if last > LARGEST_SEED:
            raise MdtError(f"--seeds: {last} is above the largest seed, {LARGEST_SEED}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise MdtError(
                f'--seeds "{text}" are more than {MOST_SEEDS:,} images',
                "sample them in several folders",
            )
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        twice = Counter(seeds).most_common(1)[0][0]
        raise MdtError(f'--seeds "{text}": {twice} is there twice', "give every seed once")
    return seeds


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """Class indices: `all`, or names, indices and index ranges between commas.

    A whole text that is one name is that class, so names may hold commas. A number that is both
    an index and the name of another class must be written #index or =name.
    """
    if not names:
        raise MdtError(
            f"--classes {text}: this network was trained without classes", "leave out --classes"
        )
    if text.strip() == "all" and "all" not in names:
        return list(range(len(names)))
    if text in names and not re.fullmatch("[0-9]+", text):
        return [names.index(text)]
    found: list[int] = []
    for part in text.split(","):
        found += _one_class(part.strip(), names)
    return found


def taken_as(text: str, names: Sequence[str]) -> str | None:
    """What the numbers of `text`, which `parse_classes` accepts, were taken for.

    None where no class is named by a number that is not its index.
    """
    if other_number(names) is None or text in names:
        return None
    said = []
    for part in (word.strip() for word in text.split(",")):
        if NUMBER.fullmatch(part) and part in names and int(part) >= len(names):
            said.append(f"{part} is a name")
        elif re.fullmatch(r"[0-9]+(\s*-\s*[0-9]+)?", part):
            classes = _one_class(part, names)
            shown = ", ".join(names[index] for index in classes[:SHOWN_CLASSES])
            more = ", ..." if len(classes) > SHOWN_CLASSES else ""
            is_are = "are indices, named" if "-" in part else "is the index of"
            said.append(f"{part} {is_are} {shown}{more}")
    return f"--classes {text}: {'; '.join(said)} (=NAME asks for a name)" if said else None


def _one_class(word: str, names: Sequence[str]) -> list[int]:
    if word.startswith("=") and word[1:] in names:
        return [names.index(word[1:])]
    if word.startswith("#") and re.fullmatch("[0-9]+", word[1:]):
        return [_index(int(word[1:]), names)]
    if re.fullmatch("[0-9]+", word) and (word not in names or int(word) < len(names)):
        if word in names and names.index(word) != int(word):
            raise MdtError(
                f"--classes: {word} is an index and also the name of class {names.index(word)}",
                f"write #{word} for the index or ={word} for the name",
            )
        return [_index(int(word), names)]
    if word in names:
        return [names.index(word)]
    ends = re.fullmatch(r"([0-9]+)\s*-\s*([0-9]+)", word)
    if ends is not None and int(ends[1]) <= int(ends[2]):
        _index(int(ends[2]), names)
        return list(range(int(ends[1]), int(ends[2]) + 1))
    cased = [name for name in names if name.lower() == word.lower()]
    near = cased or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    hint = f"there are {_some(names)}"
    if near:
        named = near[0] if names.index(near[0]) or near[0] != "all" else f"={near[0]}"
        hint = f"the nearest are {', '.join(near)}: --classes {shlex.quote(named)}"
    raise MdtError(f'--classes: there is no class "{word}"', hint)


def _index(index: int, names: Sequence[str]) -> int:
    if index >= len(names):
        raise MdtError(f"--classes: class {index} is out of range", f"there are {_some(names)}")
    return index


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"{len(names)} classes, 0 to {len(names) - 1}: {shown}"


def with_choices(
    sampling: SamplingConfig,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    precision: str | None = None,
) -> SamplingConfig:
    """The run's `[sampling]` with what the command asked for on top.

    A guidance scale keeps the run's kind of guidance; 1 turns it off.
    """
    for key, given in (("solver", solver), ("precision", precision)):
        known = get_args(SamplingConfig.model_fields[key].annotation)
        if given is not None and given not in known:
            near = nearest_value(given, known)
            raise MdtError(
                f"--{key} {given}: no such {key}{f'; did you mean {near}?' if near else ''}",
                f"it is one of {', '.join(known)}",
            )
    changes: dict[str, Any] = {}
    if steps is not None:
        changes["steps"] = steps
    if solver is not None:
        changes["solver"] = solver
    if precision is not None:
        changes["precision"] = precision
    if guidance is not None:
        before = sampling.guidance.model_dump()
        if guidance == 1:
            changes["guidance"] = NoGuidanceConfig().model_dump()
        elif isinstance(sampling.guidance, NoGuidanceConfig):
            changes["guidance"] = {**ConstantGuidanceConfig().model_dump(), "scale": guidance}
        else:
            changes["guidance"] = {**before, "scale": guidance}
    try:
        return SamplingConfig.model_validate({**sampling.model_dump(), **changes})
    except ValidationError as error:
        fault = error.errors()[0]
        name = "guidance" if "guidance" in fault["loc"] else str(fault["loc"][0])
        raise MdtError(f"--{name} {fault['input']}: {wording(fault)}") from error
