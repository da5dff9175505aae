"""A progress bar with rate and time left on a terminal; elsewhere a line every 15 seconds."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from mdt_cli.cli.output import human_seconds, is_first_process, talk, warn
from mdt_cli.text import printable

SECONDS_BETWEEN_LINES = 15.0
WINDOW, SECONDS_BETWEEN_POINTS = 60.0, 0.5


class Pace:
    """Units per second over the last minute, and over everything at the end.

    A mean since the start would take hours to notice that a machine became slower.
    """

    def __init__(self) -> None:
        self._total: int | None = None
        self._past: deque[tuple[float, float]] = deque()

    def rate(self, now: float, reached: float, total: int) -> float:
        """Units per second at the time `now`; another total is other work."""
        if total != self._total:
            self._total, self._begun = total, (now, reached)
            self._past.clear()
        if not self._past or now - self._past[-1][0] >= SECONDS_BETWEEN_POINTS:
            self._past.append((now, reached))
        # Where updates are rare, the last point before the window is the first one used.
        while len(self._past) > 1 and self._past[1][0] <= now - WINDOW:
            self._past.popleft()
        since, before = self._begun if reached >= total else self._past[0]
        return (reached - before) / (now - since) if now > since and reached > before else 0.0


class Bar:
    """`with Bar("sampling", "images") as bar: bar.update(done, total, note)`; lives on stderr."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._last_line = time.monotonic()
        self._pace = Pace()
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

    def update(self, done: int, total: int, note: str = "", ahead: float = 0.0) -> None:
        """`done` of `total` units are finished, and work worth `ahead` more of them.

        What an earlier run did is not in the rate.
        """
        now = time.monotonic()
        rate = self._pace.rate(now, done + ahead, total)
        left = ""
        if rate and done < total:
            left = f", {human_seconds((total - done - ahead) / rate)} left"
        shown = f"{rate:.1f}" if rate >= 1 or not rate else f"{rate:.2g}"
        text = f"{shown} {self._unit}/s{left}" + (f"  {note}" if note else "")
        text = printable(text, one_line=True)
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
                bar.update(event.done, event.total, event.note, event.ahead)
            case Note():
                talk(event.text)
            case Warned():
                warn(event.text, event.from_all)
            case _:
                yield event
