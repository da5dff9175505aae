"""Run by test_leaving.py: commands as ranks 0 and 1 of one group, and what they leave at their end.

The ranks are forks of this process, whose imports serve all of them.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

import mdt_cli.services.train.start  # noqa: F401
from mdt_cli.cli.app import run
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Event
from mdt_cli.services.train.state import TrainState
from tests.services.training_kit import assignments


def _gloo_threads() -> int:
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            count += "gloo" in (task / "comm").read_text()
    return count


def _report(path: Path) -> None:
    # The system lists a thread that was waited for a moment longer.
    deadline = time.monotonic() + 1
    while (threads := _gloo_threads()) and time.monotonic() < deadline:
        time.sleep(0.01)
    path.write_text(json.dumps({"group": dist.is_initialized(), "threads": threads}))


def _full_disk(state: TrainState) -> Iterator[Event]:
    raise MdtError("the disk is full")


def _defect(state: TrainState) -> Iterator[Event]:
    raise ZeroDivisionError


def _rank(rank: int, port: int, case: str, words: list[str], report: Path) -> None:
    """Never returns: Python ends as it does after any command."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # The last to be registered is the first to be called: this is called after all of torch's.
    atexit.register(_report, report)
    if case == "error of one" and rank == 0:
        TrainState.save = _full_disk
    if case == "defect":
        TrainState.save = _defect
    sys.exit(run(words))


def main() -> None:
    gc.disable()  # else it may free a network by chance
    cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
    cases = {
        "done": assignments(2),
        "error of one": assignments(9, "checkpoint.every=2"),
        "defect": assignments(9, "checkpoint.every=2"),
        "signal": assignments(2_000),
    }
    ends: dict[str, list[dict]] = {}
    for case, settings in cases.items():
        if ends:
            # Only the first case shows that this import inside a group does no harm; it takes long.
            importlib.import_module("torch._dynamo")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = folder / case
        words = ["pretrain", str(cache), str(out), *settings, "--device", "cpu"]
        reports = [folder / f"{case} {rank}.json" for rank in (0, 1)]
        pids = []
        for rank, report in enumerate(reports):
            pids.append(os.fork())
            if pids[-1] == 0:
                _rank(rank, port, case, words, report)
        if case == "signal":
            log = out / "log.jsonl"
            while not log.is_file() or len(log.read_text().splitlines()) < 3:
                time.sleep(0.02)
            os.kill(pids[1], signal.SIGTERM)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        ends[case] = [
            {"code": code, **json.loads(report.read_text())}
            for code, report in zip(codes, reports, strict=True)
        ]
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
