"""Which folders are classes: not those around all of them, and not the splits of a data set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mdt_cli.images.companions import check_companions, check_numbered_folders
from mdt_cli.images.files import as_text
from mdt_cli.images.labels import Classes, from_folders
from mdt_cli.images.reading import AmbiguousSetError, Reading

TRAINING = {"train", "training", "trainval", "trainset"}
HELD_OUT = {"val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation"} | {
    "holdout",
    "valset",
    "testset",
}
# `trainA`, `TestSet` and `seg_test` are words in a row.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
SHOWN = 6


def split_of(name: str) -> str | None:
    """`train` or `held out` where a folder is named like a split: `Training`, `seg_test`."""
    words = [word.lower() for word in WORD.findall(as_text(name))]
    if any(word in TRAINING for word in words):
        return "train"
    return "held out" if any(word in HELD_OUT for word in words) else None


def inside_wrappers(names: Sequence[str], reading: Reading) -> tuple[list[str], tuple[str, ...]]:
    """Relative paths below the folders that hold all class folders, and a note of them.

    Such a folder (`train` of ImageNet, the root of a zip) is no class. Without one: the paths.
    """
    start, least = 0, 2 if reading.by_first_rules else 1
    while True:
        top = names[0][start:].partition("/")[0] + "/"
        rest = [name[start:] for name in names]
        counts = [name.count("/") for name in rest]
        if min(counts) < least or max(counts) < 2:
            break
        if not all(name.startswith(top) for name in rest):
            break
        start += len(top)
        if reading.by_first_rules:
            break
    if not start:
        return list(names), ()
    note = f"everything lies in {names[0][:start]}: the folders inside it are the classes"
    return [name[start:] for name in names], (as_text(note),)


@dataclass(frozen=True)
class Folders:
    """The folders of a set: paths below `wrapper`, which holds all classes, and a note of it."""

    inner: list[str]
    wrapper: str
    notes: tuple[str, ...]
    path: Path
    reading: Reading

    @classmethod
    def of(cls, names: Sequence[str], path: Path, reading: Reading) -> Self:
        """Those of these relative paths in the container at `path`."""
        inner, notes = inside_wrappers(names, reading)
        return cls(inner, names[0].removesuffix(inner[0]), notes, path, reading)

    def check_splits(self) -> None:
        """AmbiguousSetError where folders are splits of a data set."""
        check_splits(self.inner, self.wrapper, self.path, self.reading)

    def classes(self) -> Classes:
        """Classes from folders, none for a flat set.

        Raises AmbiguousSetError for splits and for masks and the like, and MdtError for images
        beside class folders.
        """
        self.check_splits()
        check_companions(self.inner, self.path, self.reading)
        check_numbered_folders(self.inner, self.path, self.reading)
        return from_folders(self.inner, str(self.path), self.reading)


def check_splits(inner: Sequence[str], wrapper: str, path: Path, reading: Reading) -> None:
    """AmbiguousSetError where folders, or the folders in every class, are splits of a data set.

    `inner` are paths below `wrapper`. Patterns of the user decide: with any, nothing is checked.
    """
    if reading.only or reading.by_first_rules:
        return
    tops = sorted({name.partition("/")[0] for name in inner if "/" in name}, key=reading.key)
    if _are_splits(tops):
        chosen = next((top for top in tops if split_of(top) == "train"), tops[0])
        raise _splits(path, tops, f"{wrapper}{chosen}", wrapper + chosen, reading)
    below: dict[str, set[str]] = {top: set() for top in tops}
    for name in inner:
        parts = name.split("/", 2)
        if len(parts) == 3:
            below[parts[0]].add(parts[1])
    if tops and all(_are_splits(sorted(folders)) for folders in below.values()):
        seconds = sorted(below[tops[0]], key=reading.key)
        chosen = next(name for name in seconds if split_of(name) == "train")
        raise _splits(path, [f"{tops[0]}/{name}" for name in seconds], f"*/{chosen}", None, reading)


def _are_splits(names: Sequence[str]) -> bool:
    """A split for training beside another one, or nothing but splits."""
    kinds = [split_of(name) for name in names]
    return len(names) > 1 and ({"train", "held out"} <= set(kinds) or None not in kinds)


def _splits(
    path: Path, names: Sequence[str], pattern: str, folder: str | None, reading: Reading
) -> AmbiguousSetError:
    hint = f"choose one: {reading.only_option} '{as_text(pattern)}/*'"
    if folder is not None and (path / folder).is_dir():
        hint += f" (or give {as_text(str(path / folder))})"
    hint += f"; if they are classes: {reading.only_option} '*'"
    return AmbiguousSetError(
        f"{path} holds splits ({_some([as_text(name) for name in names])}), not classes", hint
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
