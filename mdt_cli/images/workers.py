"""Worker processes that read, decode and crop pictures, and hand them back in order."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from mdt_cli.errors import MdtError
from mdt_cli.images.archives import Reader
from mdt_cli.images.decode import Pixels, UnreadableError, read_picture

# One task is this many bytes of pixels at most, and this many pictures: enough that handing it
# over costs nothing beside decoding, little enough that workers never wait for each other.
TASK_BYTES, TASK_PICTURES = 4 << 20, 128


@dataclass(frozen=True)
class Decoded:
    """`pixels` uint8 [n,3,S,S] of the pictures `kept` (indices); `skipped` (index, reason)."""

    pixels: Pixels
    kept: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...]
    modes: dict[str, int]
    enlarged: int


def decode(reader: Reader, first: int, places: Sequence[Any], size: int) -> Decoded:
    """Read the pictures at `places`; the first of them has index `first`."""
    pixels = np.empty((len(places), 3, size, size), np.uint8)
    kept: list[int] = []
    skipped: list[tuple[int, str]] = []
    modes, enlarged = Counter[str](), 0
    for index, place in enumerate(places, first):
        try:
            picture = read_picture(reader.read(place), size)
        except (UnreadableError, OSError) as error:
            skipped.append((index, str(error)))
            continue
        pixels[len(kept)] = picture.pixels
        kept.append(index)
        modes[picture.mode] += 1
        enlarged += picture.enlarged
    return Decoded(pixels[: len(kept)], tuple(kept), tuple(skipped), dict(modes), enlarged)


def picture_sizes(reader: Reader, places: Sequence[Any]) -> list[tuple[int, int]]:
    """(width, height) from the headers of those pictures that have one."""
    sizes = []
    for place in places:
        # A broken picture is reported when its turn comes.
        with suppress(Exception), Image.open(BytesIO(reader.read(place))) as image:
            sizes.append(image.size)
    reader.close()
    return sizes


class Decoders:
    """`workers` processes that decode ahead; 0 decodes in this process. Use as a context.

    What comes out does not depend on their number.
    """

    def __init__(self, reader: Reader, size: int, workers: int) -> None:
        self._reader, self._size, self._workers = reader, size, workers
        self._task = max(1, min(TASK_PICTURES, TASK_BYTES // (3 * size * size)))
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
                self._workers, context, _start_worker, (self._reader, self._size)
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def decode(self, places: Sequence[Any], spans: Sequence[range]) -> Iterator[Decoded]:
        """The pictures of all `spans` of `places`, span by span, in order."""
        tasks = (
            range(start, min(start + self._task, span.stop))
            for span in spans
            for start in range(span.start, span.stop, self._task)
        )
        if self._pool is None:
            for task in tasks:
                yield decode(self._reader, task.start, places[task.start : task.stop], self._size)
            return
        ahead = 2 * self._workers + 2
        waiting: deque[Future[Decoded]] = deque()
        try:
            for task in tasks:
                part = places[task.start : task.stop]
                waiting.append(self._pool.submit(_work, task.start, part))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MdtError(
                "a worker process died while decoding, most likely killed for lack of memory",
                "run the same command again with fewer --workers; finished shards are kept",
            ) from error


_worker: tuple[Reader, int]


def _start_worker(reader: Reader, size: int) -> None:
    global _worker
    _worker = (reader, size)
    # Terminals and job schedulers signal every process; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot close its workers: they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(first: int, places: Sequence[Any]) -> Decoded:
    reader, size = _worker
    return decode(reader, first, places, size)
