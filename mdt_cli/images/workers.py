"""Worker processes that read, decode and crop images, and return them in order."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import Reader
from mdt_cli.images.contents import content_digest
from mdt_cli.images.decode import Pixels, Raw, read_image
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.pixel_rule import RULE, PixelRule

# The most pixel bytes and images of one task: enough that its transfer costs nothing beside
# decoding, little enough that workers never wait for each other.
TASK_BYTES, TASK_IMAGES = 4 << 20, 128

Result = TypeVar("Result")
# What is done with the images at some locations, of which the first has that index.
Task = Callable[[Reader, int, Sequence[Any], int, PixelRule], Result]


@dataclass(frozen=True)
class Decoded:
    """`pixels` uint8 [n,3,S,S] of the images `kept` (indices); `skipped` (index, reason).

    `contents` are the SHA-256 of all of them as they are stored, "" where nothing could be read.
    """

    pixels: Pixels
    kept: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...]
    modes: dict[str, int]
    enlarged: int
    contents: tuple[str, ...] = ()


def decode(
    reader: Reader, first: int, locations: Sequence[Any], size: int, rule: PixelRule = RULE
) -> Decoded:
    """Read the images at `locations`; the first of them has index `first`."""
    pixels = np.empty((len(locations), 3, size, size), np.uint8)
    kept: list[int] = []
    skipped: list[tuple[int, str]] = []
    contents = [""] * len(locations)
    modes, enlarged = Counter[str](), 0
    for index, location in enumerate(locations, first):
        try:
            raw = _whole(reader.read(location))
            contents[index - first] = content_digest(raw)
            image = read_image(raw, size, rule)
        except (UnreadableError, OSError) as error:
            skipped.append((index, str(error)))
            continue
        pixels[len(kept)] = image.pixels
        kept.append(index)
        modes[image.mode] += 1
        enlarged += image.enlarged
    return Decoded(
        pixels[: len(kept)],
        tuple(kept),
        tuple(skipped),
        dict(modes),
        enlarged,
        tuple(contents),
    )


def _whole(raw: Raw) -> Raw:
    return raw.read_bytes() if isinstance(raw, Path) else raw


def contents(
    reader: Reader, first: int, locations: Sequence[Any], size: int, rule: PixelRule = RULE
) -> list[str]:
    """The SHA-256 of the images at `locations`, as `decode` has them; nothing is decoded."""
    found = []
    for location in locations:
        try:
            found.append(content_digest(reader.read(location)))
        except (UnreadableError, OSError):
            found.append("")
    return found


class Decoders:
    """`workers` processes that decode ahead; 0 decodes in this process. Use as a context.

    Each worker is given `reader` once, and with each task its locations: those of all images would
    take hundreds of megabytes per worker. The result does not depend on the number of workers.
    """

    def __init__(self, reader: Reader, size: int, workers: int, rule: PixelRule = RULE) -> None:
        self._reader, self._size, self._workers, self._rule = reader, size, workers, rule
        self._task = max(1, min(TASK_IMAGES, TASK_BYTES // (3 * size * size)))
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Decoders":
        if self._workers:
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context(
                "forkserver" if "forkserver" in methods else "spawn"
            )
            if "forkserver" in methods:
                context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(
                self._workers, context, _start_worker, (self._reader, self._size, self._rule)
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def decode(self, locations: Sequence[Any], spans: Sequence[range]) -> Iterator[Decoded]:
        """The images of all `spans` of `locations`, span by span, in order."""
        return self._in_order(decode, locations, spans)

    def contents(self, locations: Sequence[Any], spans: Sequence[range]) -> Iterator[list[str]]:
        """The SHA-256 of the images, as `Decoded.contents`, in order; nothing is decoded."""
        return self._in_order(contents, locations, spans)

    def _in_order(
        self, work: "Task[Result]", locations: Sequence[Any], spans: Sequence[range]
    ) -> Iterator[Result]:
        tasks = (
            range(start, min(start + self._task, span.stop))
            for span in spans
            for start in range(span.start, span.stop, self._task)
        )
        if self._pool is None:
            for task in tasks:
                part = locations[task.start : task.stop]
                yield work(self._reader, task.start, part, self._size, self._rule)
            return
        ahead = 2 * self._workers + 2
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                part = locations[task.start : task.stop]
                waiting.append(self._pool.submit(_work, work, task.start, part))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MdtError(
                "a worker process died while decoding, most likely killed for lack of memory",
                "run the same command again with fewer --workers; finished shards are kept",
            ) from error


_worker: tuple[Reader, int, PixelRule]


def _start_worker(reader: Reader, size: int, rule: PixelRule) -> None:
    global _worker
    _worker = (reader, size, rule)
    # Terminals and job schedulers signal every process; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End with a parent that was killed: it can no longer close its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(work: Task[Result], first: int, locations: Sequence[Any]) -> Result:
    reader, size, rule = _worker
    return work(reader, first, locations, size, rule)
