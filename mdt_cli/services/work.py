"""How work is dealt out to the processes of a launcher, and who waits for whom."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

from mdt_cli.artifacts.sample_folder.npz import NpzFolder
from mdt_cli.artifacts.sample_folder.png import Job, Pixels, PngFolder
from mdt_cli.services.events import Event, Progress
from mdt_cli.services.runtime import Stop, deferred_signals

GO_ON = "Finished images are kept: run the same command again to go on."
SECONDS_BETWEEN_LOOKS = 0.5

# (job, positions of one batch in its seeds) -> their pictures.
DrawBatch = Callable[[Job, range], Mapping[int, Pixels]]


def num_processes() -> int:
    """As the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def draw_share(
    folder: PngFolder | NpzFolder, job: Job, draw_batch: DrawBatch
) -> Generator[Event, None, int | None]:
    """Draw the batches of this process that are missing.

    Batches are dealt to the processes of a launcher in turn. Nobody waits at a barrier: the first
    process looks until all files are there, and returns how many it drew; the others return None.
    """
    rank, processes = int(os.environ.get("RANK", "0")), num_processes()
    mine = range(rank, job.num_batches, processes)
    missing = {batch: folder.missing(batch) for batch in mine}
    total = sum(len(job.batch(batch)) for batch in mine)
    done = total - sum(len(positions) for positions in missing.values())
    share = "" if processes == 1 else f"share of process 1 of {processes}"
    drawn = 0
    yield Progress(done, total, share)
    with deferred_signals() as stop:
        if any(missing.values()):
            folder.begin()
        for batch, positions in missing.items():
            stop.raise_if_asked(GO_ON)
            if not positions:
                continue
            images = draw_batch(job, job.batch(batch))
            folder.write(positions, images)
            drawn += len(positions)
            done += len(positions)
            yield Progress(done, total, share)
        stop.raise_if_asked(GO_ON)
        if rank != 0:
            return None
        yield from _wait_for_others(folder, job, processes, stop)
    return drawn


def _wait_for_others(
    folder: PngFolder | NpzFolder, job: Job, processes: int, stop: Stop
) -> Iterator[Event]:
    """Look at the files of the other processes until all are whole."""
    if processes == 1:
        return
    others = [batch for batch in range(job.num_batches) if batch % processes]
    while others:
        stop.raise_if_asked(GO_ON)
        others = [batch for batch in others if folder.missing(batch)]
        absent = sum(len(job.batch(batch)) for batch in others)
        yield Progress(len(job.seeds) - absent, len(job.seeds), "all processes")
        if others:
            time.sleep(SECONDS_BETWEEN_LOOKS)


@dataclass(frozen=True)
class Share:
    """Which of the shards are this process's: every `of`-th from `rank`."""

    rank: int
    of: int

    @classmethod
    def from_environment(cls) -> "Share":
        """What torchrun and accelerate launch set; one process without them."""
        rank, of = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return cls(rank, of)
