"""Archives of one set that lie in one folder: of one split, each once, and none missing."""

import re
from collections.abc import Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.layout import split_of
from mdt_cli.images.reading import AmbiguousSetError, Reading

# `train-00003-of-00010`, before a suffix or the hash of an older `datasets` library.
NUMBERED = re.compile(r"(.*?)-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?\.[^./]*")
SHOWN = 4


def check_shards(names: Sequence[str], path: Path, reading: Reading) -> None:
    """AmbiguousSetError for tars of several splits, or of the same name in several folders.

    `names` are their relative paths. Patterns of the user decide: with any, nothing is checked.
    """
    if reading.only or reading.by_first_rules:
        return
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(_split(name), []).append(name)
    kinds = {split_of(pattern) for pattern in splits}
    if len(splits) > 1 and ({"train", "held out"} <= kinds or None not in kinds):
        chosen = next((p for p in splits if split_of(p) == "train"), next(iter(splits)))
        raise _unclear(path, "tars of several splits", splits, chosen, reading)
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name.rpartition("/")[2])
    shared = set.intersection(*(set(files) for files in folders.values()))
    if len(folders) > 1 and shared:
        patterns = {f"{folder}/*" if folder else "*": files for folder, files in folders.items()}
        chosen = min(pattern for pattern in patterns if pattern != "*")
        raise _unclear(path, "tars of the same names in several folders", patterns, chosen, reading)


def _split(name: str) -> str:
    """A pattern for the tars of the same split: `train/*` or `data/train-*`; "" without one."""
    *folders, file = name.split("/")
    for depth, folder in enumerate(folders):
        if split_of(folder) is not None:
            return "/".join([*folders[: depth + 1], "*"])
    stem = re.sub(r"[-_.]?[0-9]*\.tar$", "", file, flags=re.IGNORECASE)
    if split_of(stem) is not None:
        return "/".join([*folders, f"{stem}*"])
    return ""


def _unclear(
    path: Path, what: str, groups: dict[str, list[str]], chosen: str, reading: Reading
) -> AmbiguousSetError:
    listed = ", ".join(f"{pattern or 'others'} ({len(n)})" for pattern, n in sorted(groups.items()))
    return AmbiguousSetError(
        f"{path} holds {what}: {listed}",
        f"choose which are read: {reading.only_option} '{chosen}'; "
        f"all of them: {reading.only_option} '*'",
    )


def check_complete(names: Sequence[str], root: Path, reading: Reading) -> None:
    """MdtError where files numbered `00003-of-00010` are not all there, or there twice."""
    if reading.only or reading.by_first_rules:
        return
    sets: dict[tuple[str, int], list[int]] = {}
    for name in names:
        found = NUMBERED.fullmatch(name)
        if found is not None:
            sets.setdefault((found[1], int(found[3])), []).append(int(found[2]))
    prefixes = [prefix for prefix, _ in sets]
    for (prefix, count), numbers in sets.items():
        missing = [k for k in range(min(count, 100_000)) if k not in set(numbers)]
        if prefixes.count(prefix) > 1 or len(set(numbers)) < len(numbers):
            raise AmbiguousSetError(
                f"{root} holds {prefix} more than once: files of several versions",
                f"remove the older ones; or read all: {reading.only_option} '*'",
            )
        if missing:
            listed = ", ".join(f"{k:05d}" for k in missing[:SHOWN])
            raise MdtError(
                f"{root} lacks {len(missing)} of the {count} files {prefix}-*-of-{count:05d}: "
                f"{listed}{', ...' if len(missing) > SHOWN else ''}",
                f"download the rest; or read what is there: {reading.only_option} '*'",
            )
