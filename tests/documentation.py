"""The pages of the documentation, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKS = r"((?:<!-- [^\n]+ -->\n)*)"
BLOCK = re.compile(MARKS + r"```(sh|console)\n(.*?)```", re.DOTALL)
OPERATORS = frozenset("<>|&;()")


@dataclass(frozen=True)
class Line:
    """A command line of a page; `fails` where the page shows it for its error message."""

    page: Path
    text: str
    fails: bool

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text}"


def lines(page: Path) -> list[Line]:
    """Those of the `sh` and `console` blocks, in order, with their continuations joined."""
    found: list[Line] = []
    for marks, kind, block in BLOCK.findall(page.read_text("utf-8")):
        texts = block.replace("\\\n", " ").splitlines()
        if kind == "console":
            texts = [text[2:] for text in texts if text.startswith("$ ")]
        for number, text in enumerate(texts):
            fails = "<!-- fails -->" in marks and number == len(texts) - 1
            found.append(Line(page, re.sub(" +", " ", text), fails))
    return found


def arguments(line: Line) -> Iterator[list[str]]:
    """The words behind each `mdt` of a line, or behind `-m mdt_cli` of a launcher."""
    lexer = shlex.shlex(line.text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= OPERATORS:
            command.append(word)
            continue
        if word.startswith(">") and command[-1] == "2":
            command.pop()
        names = ("mdt", ".venv/bin/mdt", "mdt_cli")
        starts = [k for k, w in enumerate(command) if w in names]
        if starts:
            yield command[starts[0] + 1 :]
        command = []


def table_below(page: Path, marker: str) -> set[str]:
    """The names in the first column of the first table below the line that begins so."""
    text = page.read_text("utf-8")
    _, found, rest = text.partition(f"\n{marker}")
    assert found, f"{page.name} has no line that begins with {marker}"
    rows = re.search(r"\n\|[^\n]+\n\|[-|]+\n((?:\|[^\n]+\n)+)", rest)
    assert rows is not None
    cells = [row.split("|")[1] for row in rows[1].splitlines()]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
