"""The batches of a sampling job: shared among processes, resumed where files are missing."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from mdt_cli.artifacts.sample_folder.npz import NpzFolder
from mdt_cli.artifacts.sample_folder.png import Job, Pixels, PngFolder
from mdt_cli.services.events import Event, Progress
from mdt_cli.services.runtime import Stop, deferred_signals
from mdt_cli.services.work import Share, poll

RESUME = "Finished images are kept; run the same command again to resume."

# (job, positions of one batch in its seeds) -> their images.
GenerateBatch = Callable[[Job, range], Mapping[int, Pixels]]


def generate_share(
    folder: PngFolder | NpzFolder, job: Job, generate: GenerateBatch, share: Share
) -> Generator[Event, None, int | None]:
    """Generate and write what is missing of this process's batches.

    The first process waits until all files are there, and returns how many it generated; the others
    return None.
    """
    mine = share.mine(job.num_batches)
    missing = {batch: folder.missing(batch) for batch in mine}
    total = sum(len(job.batch(batch)) for batch in mine)
    done = total - sum(len(positions) for positions in missing.values())
    of_whom = "" if share.of == 1 else f"share of process 1 of {share.of}"
    generated = 0
    yield Progress(done, total, of_whom)
    with deferred_signals() as stop:
        if any(missing.values()):
            folder.begin()
        for batch, positions in missing.items():
            stop.raise_if_asked(RESUME)
            if not positions:
                continue
            folder.write(positions, generate(job, job.batch(batch)))
            generated += len(positions)
            done += len(positions)
            yield Progress(done, total, of_whom)
        stop.raise_if_asked(RESUME)
        if share.rank:
            return None
        yield from _wait_for_others(folder, job, share, stop)
    return generated


def _wait_for_others(
    folder: PngFolder | NpzFolder, job: Job, share: Share, stop: Stop
) -> Iterator[Event]:
    """Poll for the files of the other processes until all are there."""

    def absent(batches: Sequence[int]) -> list[int]:
        stop.raise_if_asked(RESUME)
        return [batch for batch in batches if folder.missing(batch)]

    total = len(job.seeds)
    for batches in poll(share.others(job.num_batches), absent):
        yield Progress(total - sum(len(job.batch(k)) for k in batches), total, "all processes")
    if share.of > 1:
        yield Progress(total, total, "all processes")
