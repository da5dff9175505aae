"""The batches of a sampling job: shared among processes, resumed where files are missing."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from mdt_cli.artifacts.sample_folder.npz import NpzFolder
from mdt_cli.artifacts.sample_folder.png import Job, Pixels, PngFolder
from mdt_cli.services.events import Event, Progress
from mdt_cli.services.meeting import Meeting
from mdt_cli.services.runtime import Stop, deferred_signals
from mdt_cli.services.work import Share, poll

RESUME = "Finished images are kept; run the same command again to resume."

# (job, positions of one batch in its seeds) -> their images; yields (steps done, steps of all).
GenerateBatch = Callable[[Job, range], Generator[tuple[int, int], None, Mapping[int, Pixels]]]


def generate_share(
    folder: PngFolder | NpzFolder, job: Job, generate: GenerateBatch, share: Share, meeting: Meeting
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
    if any(missing.values()):
        yield from meeting.wait_for_first()
    with deferred_signals() as stop:
        if any(missing.values()):
            folder.begin()
        for batch, positions in missing.items():
            stop.raise_if_asked(RESUME)
            if not positions:
                continue
            images = yield from _stepwise(
                generate(job, job.batch(batch)),
                Progress(done, total, of_whom, ahead=len(positions)),
                stop,
            )
            folder.write(positions, images)
            generated += len(positions)
            done += len(positions)
            yield Progress(done, total, of_whom)
        stop.raise_if_asked(RESUME)
        if share.rank:
            return None
        yield from _wait_for_others(folder, job, share, meeting, stop)
    return generated


def _stepwise(
    work: Generator[tuple[int, int], None, Mapping[int, Pixels]], whole: Progress, stop: Stop
) -> Generator[Event, None, Mapping[int, Pixels]]:
    """The images of one batch; between its steps signals are heard and progress is reported.

    whole: `ahead` is what the batch is worth. A batch that is stopped is generated again, from its
    seeds.
    """
    with closing(work):
        while True:
            try:
                step, steps = next(work)
            except StopIteration as finished:
                images: Mapping[int, Pixels] = finished.value
                return images
            note = ", ".join(filter(None, [whole.note, f"step {step} of {steps}"]))
            yield replace(whole, note=note, ahead=whole.ahead * step / steps)
            stop.raise_if_asked(RESUME)


def _wait_for_others(
    folder: PngFolder | NpzFolder, job: Job, share: Share, meeting: Meeting, stop: Stop
) -> Iterator[Event]:
    """Poll for the files of the other processes until all are there."""

    def absent(batches: Sequence[int]) -> list[int]:
        stop.raise_if_asked(RESUME)
        return [batch for batch in batches if folder.missing(batch)]

    total = len(job.seeds)
    for batches in poll(share.others(job.num_batches), absent):
        yield Progress(total - sum(len(job.batch(k)) for k in batches), total, "all processes")
        yield from meeting.check(sorted({share.of_whom(batch) for batch in batches}))
    if share.of > 1:
        yield Progress(total, total, "all processes")
