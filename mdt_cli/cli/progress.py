"""A progress bar with rate and time left on a terminal; elsewhere a line every 15 seconds."""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from mdt_cli.cli.output import human_seconds, is_first_process, talk, warn
from mdt_cli.text import printable

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """`with Bar("sampling", "images") as bar: bar.update(done, total, note)`; lives on stderr."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._start = self._last_line = time.monotonic()
        self._first: int | None = None
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if is_first_process() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._rich = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._rich.start()
            self._task = self._rich.add_task(self._title, total=None, note="")
        return self

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are finished; what an earlier run did is not in the rate."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = done, now
        elapsed, fresh = now - self._start, done - self._first
        rate = fresh / elapsed if elapsed > 0 and fresh else 0.0
        left = f", {human_seconds((total - done) / rate)} left" if rate and done < total else ""
        text = printable(
            f"{rate:.1f} {self._unit}/s{left}" + (f"  {note}" if note else ""), one_line=True
        )
        if self._rich is not None:
            self._rich.update(self._task, completed=done, total=total, note=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or done == total:
            self._last_line = now
            talk(f"{self._title}: {done}/{total} {self._unit}, {text}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()


def shown_events(events: Iterator[Any], bar: Bar | None = None) -> Iterator[Any]:
    """Show what every command shows alike (progress, notes, warnings); pass on the rest."""
    from mdt_cli.services.events import Note, Progress, Warned

    for event in events:
        match event:
            case Progress() if bar is not None:
                bar.update(event.done, event.total, event.note)
            case Note():
                talk(event.text)
            case Warned():
                warn(event.text)
            case _:
                yield event
