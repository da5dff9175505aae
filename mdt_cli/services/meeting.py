"""Whether the other processes of a launch are there.

RANK and WORLD_SIZE may be left in the environment by something else: then a process would wait for
others that nobody started, or do a part of the work and leave the rest.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.locks import is_held, present, writing_file, writing_folder
from mdt_cli.services.events import Event, Warned
from mdt_cli.services.work import SECONDS_BETWEEN_POLLS, Share

SECONDS_UNTIL_NOTE, SECONDS_UNTIL_END = 10.0, 120.0
OF_A_LAUNCH = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Meeting:
    """The processes that share the work on `target`: each is seen by the lock that it holds there.

    The first one outlives the others, as it waits for their files. Whoever waits calls `check`
    between two looks at those files.
    """

    def __init__(self, share: Share, target: Path, is_folder: bool) -> None:
        self._share, self._target, self._is_folder = share, target, is_folder
        self._since: float | None = None
        self._warned = False

    def check(self, ranks: Iterable[int]) -> Iterator[Event]:
        """A warning where some of the processes `ranks` have been absent for seconds, once.

        MdtError after `SECONDS_UNTIL_END`.
        """
        absent = [k for k in ranks if not is_held(self._target, self._is_folder, k)]
        now = time.monotonic()
        if not absent or self._since is None:
            self._since = now
        if now - self._since > SECONDS_UNTIL_END:
            raise MdtError(f"{nobody(self._share, absent)}; finished work is kept", way_out())
        if now - self._since > SECONDS_UNTIL_NOTE and not self._warned:
            self._warned = True
            yield Warned(f"{nobody(self._share, absent)}; {way_out()}", from_all=True)

    def wait_for_first(self) -> Iterator[Event]:
        """On another process: until the first one is there."""
        while self._share.rank and not is_held(self._target, self._is_folder):
            yield from self.check([0])
            time.sleep(SECONDS_BETWEEN_POLLS)

    def without_first(self) -> Iterator[Event]:
        """On another process: a warning where it is done and the first one is not there."""
        if self._share.rank and not is_held(self._target, self._is_folder):
            yield Warned(
                f"{nobody(self._share, [0])}: this process did its own part only; {way_out()}",
                from_all=True,
            )


def as_only_writer(
    target: Path, is_folder: bool, share: Share, events: Iterator[Event]
) -> Iterator[Event]:
    """The events of a command whose first process locks `target` (see `locks`) until they end."""
    if share.rank:
        with present(target, is_folder, share.rank):
            yield from events
        return
    lock = writing_folder(target, sweep=share.of == 1) if is_folder else writing_file(target)
    with lock as problem:
        if problem is not None:
            yield Warned(problem)
        yield from events


def nobody(share: Share, absent: Iterable[int]) -> str:
    """That the processes `absent` are not there."""
    ranks = ", ".join(map(str, absent))
    return (
        f"RANK={share.rank} and WORLD_SIZE={share.of} in the environment say that {share.of} "
        f"processes share this work, but that of RANK {ranks} is not running"
    )


def way_out() -> str:
    """What to do where the other processes are missing."""
    names = " ".join(name for name in OF_A_LAUNCH if name in os.environ)
    return (
        "start all of them, as torchrun or accelerate launch do; if this one is meant to be alone, "
        f"first run: unset {names}"
    )
