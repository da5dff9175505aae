"""The processes of a training run find each other, or say in time that nobody else is there."""

import os
import threading
import time
from collections.abc import Generator
from datetime import timedelta

import torch

from mdt_cli.errors import MdtError
from mdt_cli.services.events import Event, Warned
from mdt_cli.services.meeting import SECONDS_UNTIL_NOTE, way_out
from mdt_cli.services.train.placement import Placement, place
from mdt_cli.services.work import SECONDS_BETWEEN_POLLS, Share

# Machines of one job may start minutes apart.
LONGEST_MEETING = timedelta(minutes=10)


def met(precision: str, device: str | None) -> Generator[Event, None, Placement]:
    """As `place`, which returns once all processes are there.

    It waits in a thread, so that a signal is heard and a warning comes after seconds. MdtError
    after `LONGEST_MEETING`, and at once without MASTER_ADDR or MASTER_PORT.
    """
    share = Share.from_environment()
    if share.of == 1:
        return place(precision, device)
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise MdtError(f"{_others(share)}, but {' and '.join(absent)} are not set", way_out())
    found: list[Placement] = []
    faults: list[Exception] = []
    waiting = threading.Thread(target=_place, args=(precision, device, found, faults), daemon=True)
    waiting.start()
    begun, warned = time.monotonic(), False
    while waiting.is_alive():
        waiting.join(SECONDS_BETWEEN_POLLS)
        waited = time.monotonic() - begun
        if waited > LONGEST_MEETING.total_seconds():
            raise MdtError(f"{_others(share)}, but not all of them came", way_out())
        if waited > SECONDS_UNTIL_NOTE and not warned and waiting.is_alive():
            warned = True
            yield Warned(f"{_others(share)}; waiting for them. {way_out()}", from_all=True)
    if faults:
        raise faults[0]
    placement = found[0]
    if placement.device.type == "cuda":
        # The current GPU is one of each thread.
        torch.cuda.set_device(placement.device)
    return placement


def _place(
    precision: str, device: str | None, found: list[Placement], faults: list[Exception]
) -> None:
    try:
        found.append(place(precision, device))
    except (MdtError, RuntimeError, ValueError, OSError) as error:
        faults.append(error)


def _others(share: Share) -> str:
    return (
        f"RANK={share.rank} and WORLD_SIZE={share.of} in the environment say that {share.of} "
        "processes train together"
    )
