"""A real signal in the middle of a stage."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from mdt_cli.errors import Stopped


def stopped_at(
    events: Iterator[Any], here: Callable[[Any], bool], signum: int = signal.SIGTERM
) -> tuple[Stopped, list[Any]]:
    """How the stage ended after a signal at the first event that is `here`, and what came after."""
    after: list[Any] = []
    asked = False
    try:
        for event in events:
            if asked:
                after.append(event)
            elif here(event):
                os.kill(os.getpid(), signum)
                asked = True
    except Stopped as stopped:
        return stopped, after
    raise AssertionError("the signal was not heard" if asked else "no event was the one")
