"""Data on stdout, messages on stderr, from the first process only."""

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mdt_cli.text import printable


def is_first_process() -> bool:
    """Whether this is rank 0 of a launcher, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def print_any_name() -> None:
    """Show characters that the encoding of a stream lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def talk(text: str) -> None:
    """A message on stderr."""
    if is_first_process():
        print(printable(text, one_line=True), file=sys.stderr, flush=True)


def warn(text: str, from_all: bool = False) -> None:
    """A warning on stderr; from every process where the first one may be missing."""
    if from_all:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    else:
        talk(f"warning: {text}")


def fail(message: str, hint: str | None) -> None:
    """An error, from every process: the one that failed may not be the first."""
    print(printable(f"error: {message}", one_line=True), file=sys.stderr)
    if hint:
        print(printable(f"  {hint}", one_line=True), file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """A line of data on stdout."""
    if is_first_process():
        print(printable(text), flush=True)


def emit_json(data: Mapping[str, Any]) -> None:
    """`data` as indented JSON on stdout."""
    emit(json.dumps(data, indent=2, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout, as wide as its widest cells."""
    if not is_first_process():
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(printable(title, one_line=True)),
        title_justify="left",
        box=SIMPLE_HEAD,
        title_style="bold",
    )
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        # As text, so that brackets are not read as markup.
        shown.add_row(*(Text(printable(cell, one_line=True)) for cell in row))
    console = Console()
    if not console.is_terminal:
        # Into a file or a pipe: never fold a path because the width is unknown.
        console = Console(width=200)
    console.print(shown)


def human_bytes(count: float) -> str:
    """A number of bytes in the largest binary unit that keeps it above 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """A duration as "1.5 s", "2 min 05 s" or "3 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
