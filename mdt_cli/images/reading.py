"""How a set of images is read: the rules of its order, and what the user decided."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mdt_cli.errors import MdtError

# `text` stands for all rules of version 0.1: what it began is finished by them.
Order = Literal["text", "numbers"]
FIRST: Order = "text"
NEWEST: Order = "numbers"
# Longer runs of digits are no numbers that anybody counted with.
DIGITS = 40
_WHOLE = re.compile(r"[0-9]{1,40}(?=\Z|\.[^.]*\Z)")


class AmbiguousSetError(MdtError):
    """It is not clear which images are meant: an error whether classes are asked for or not."""


@dataclass(frozen=True)
class Reading:
    """The rules of order, and the options that decide what of a path is read.

    `only` are patterns of relative paths, as a shell has them, and with `!` those to leave out;
    none means all images. `only_option` is how the command calls that option. `labels` is a list of
    files and classes, whose columns (of any table of the set as well) may be named; `label_before`
    ends the class in a file name, at its first place or, if `last`, its last.
    """

    order: Order = "numbers"
    only: tuple[str, ...] = ()
    only_option: str = "--only"
    labels: Path | None = None
    file_column: str | None = None
    label_column: str | None = None
    label_before: str | None = None
    last: bool = False

    @property
    def by_first_rules(self) -> bool:
        """Whether the rules of version 0.1 hold: order as text, and its layouts."""
        return self.order == FIRST

    @property
    def options(self) -> tuple[str, ...]:
        """The options that were given, by name."""
        given = {
            self.only_option: bool(self.only),
            "--labels": self.labels is not None,
            "--file-column": self.file_column is not None,
            "--label-column": self.label_column is not None,
            "--label-before-last" if self.last else "--label-before": self.label_before is not None,
        }
        return tuple(option for option, used in given.items() if used)

    @property
    def key(self) -> Callable[[str], tuple[str, str]]:
        """The key that relative paths and class names are sorted by."""
        return _as_text if self.by_first_rules else number_key

    def wants(self, name: str, inner: str | None = None) -> bool:
        """Whether `only` names this path; `inner` is the path inside an archive."""
        if not self.only:
            return True
        names = (name,) if inner is None else (name, inner)
        left_out = [pattern[1:] for pattern in self.only if pattern.startswith("!")]
        wanted = [pattern for pattern in self.only if not pattern.startswith("!")]
        return (not wanted or _any_names(wanted, names)) and not _any_names(left_out, names)


EVERYTHING = Reading()


def _any_names(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, pattern.rstrip("/") + "/*")
        for name in names
        for pattern in patterns
    )


def number_key(name: str) -> tuple[str, str]:
    """A key that sorts whole numbers in a path, suffixes aside, as numbers."""
    folder, slash, file = name.rpartition("/")
    return _folder_key(folder) + slash + _part_key(file), name


@lru_cache(1024)
def _folder_key(folder: str) -> str:
    return "/".join(map(_part_key, folder.split("/")))


def _part_key(part: str) -> str:
    found = _WHOLE.match(part)
    return part if found is None else found[0].lstrip("0").zfill(DIGITS) + part[found.end() :]


def _as_text(name: str) -> tuple[str, str]:
    return name, name


def known_order(recorded: object) -> Order:
    """The rule of order that a manifest or plan records; version 0.1 recorded none."""
    if recorded is None:
        return FIRST
    if recorded == NEWEST:
        return NEWEST
    raise MdtError(
        f'the cache was made by the rule of order "{recorded}", which this version does not know',
        "use the version of mdt that made the cache, or choose a new folder",
    )
