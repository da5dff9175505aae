"""Features of large sets: cut into shards, shared among processes, kept until the report is there.

Shard k holds the images k*R .. k*R+R-1 of a set in reading order, so no shard depends on another,
any process may make any of them, and what is finished survives a kill. Merging only reads them and
may be repeated. What comes out does not depend on how many processes there were.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdt_cli.artifacts.weights import read_tensors, save_tensors
from mdt_cli.errors import Stopped
from mdt_cli.files import atomic_path, cannot_write, sha256_of, write_json
from mdt_cli.images.pixel_rule import RULE
from mdt_cli.images.sized import SizedSet
from mdt_cli.json_reader import read_json
from mdt_cli.metrics.extract import Extracted, ImageBatch, collect, feature_batches
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.services.events import Event, Note, Progress, Warned
from mdt_cli.services.meeting import Meeting
from mdt_cli.services.work import Share, poll

# Images per shard: seconds of work, 2 MB of features.
ROWS = 256
# One process writes shards only for sets that are worth a resume.
IN_MEMORY = 1000
# Without a new shard for so long, the first process reports what it waits for.
SECONDS_UNTIL_NOTE = 60.0
NAMED = 5
MARK = "finished-"
# What launchers set to one value for all processes of one start.
LAUNCH = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


@dataclass
class Shards:
    """The features of some sets under `folder`; `done` of `total` images so far, for progress."""

    folder: Path
    share: Share
    extractor: Extractor
    device: torch.device
    batch_size: int
    total: int
    meeting: Meeting
    done: int = 0
    dealt: int = 0  # shards of earlier sets: several small sets are shared out as well
    # Of each set that was made: its folder, by the set's path, and the shards of other processes.
    folders: dict[Path, Path] = field(default_factory=dict)
    others: list[tuple[Path, int, range]] = field(default_factory=list)
    lost: int = 0  # shards that had to be extracted again while merging

    def __post_init__(self) -> None:
        # Left by an earlier run that was stopped, it would say that this process is done.
        if self.share.rank:
            self._finished(self.share.rank).unlink(missing_ok=True)

    def make(self, images: SizedSet, what: str) -> Iterator[Event]:
        """Extract this process's shards of a set, those that are finished left as they are.

        A small set on one process goes without files: `merged` extracts it.
        """
        if images.path in self.folders:  # the same images on both sides
            self.done += images.count
            yield Progress(self.done, self.total, what)
            return
        if self._in_memory(images):
            return
        folder = self.folder / _key(images, self.extractor, self.device)[:16]
        self.folders[images.path] = folder
        spans = self._spans(images)
        mine = self.share.mine(len(spans), before=self.dealt)
        others = self.share.others(len(spans), before=self.dealt)
        self.dealt += len(spans)
        self.others += [(folder, index, spans[index]) for index in others]
        finished = [index for index in mine if self._is_finished(folder, index, spans[index])]
        if finished:
            yield Note(
                f"{sum(len(spans[k]) for k in finished):,} images of {images.path} have features "
                "from an earlier run; resuming"
            )
        self.done += sum(len(spans[index]) for index in finished)
        with closing(images):
            for index in mine:
                if index in finished:
                    continue
                try:
                    yield from self._make_one(images, folder, index, spans[index], what)
                except Stopped as stopped:
                    raise self._stopped(stopped) from None
        yield Progress(self.done, self.total, what)

    def wait(self) -> Iterator[Event]:
        """On the first process: until all others are done and their shards are there and intact.

        It looks at the files it is about to read, so that nothing but the folder is shared, and a
        signal is heard between two looks. The other processes leave a mark and go when their shards
        are written; one that came late would make all of them once more, with nobody to read them.
        """
        if self.share.rank:
            mark = self._finished(self.share.rank)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                mark.touch()
            except OSError as error:
                raise cannot_write(mark, error) from error
            return
        since, patience = time.monotonic(), SECONDS_UNTIL_NOTE
        absent = len(self.others)
        try:
            for late in poll(range(1, self.share.of), self._late):
                unmarked = [rank for rank in late if not self._finished(rank).is_file()]
                yield from self.meeting.check(unmarked)
                if len(self.others) < absent:
                    absent = len(self.others)
                    since, patience = time.monotonic(), SECONDS_UNTIL_NOTE
                if time.monotonic() - since > patience:
                    patience *= 2
                    yield Note(self._awaited())
        except Stopped as stopped:
            raise self._stopped(stopped) from None

    def _late(self, ranks: Sequence[int]) -> list[int]:
        """Those of the other processes that are not done; all, while a shard of theirs is absent.

        A shard that was found intact is not checked again.
        """
        while self.others and self._is_finished(*self.others[0]):
            del self.others[0]
        return [rank for rank in ranks if self.others or not self._finished(rank).is_file()]

    def _awaited(self) -> str:
        missing = [
            _shard(folder, index)
            for folder, index, _ in self.others
            if not _record(folder, index).is_file()
        ] or [_shard(folder, index) for folder, index, _ in self.others[:1]]
        ranks = (rank for rank in range(1, self.share.of) if not self._finished(rank).is_file())
        missing = missing or [self._finished(rank) for rank in ranks]
        named = ", ".join(str(file.relative_to(self.folder)) for file in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        return (
            f"waiting for features of other processes in {self.folder}: {named}{more}; all "
            f"{self.share.of} processes must run and see this folder"
        )

    def _stopped(self, stopped: Stopped) -> Stopped:
        return Stopped(
            stopped.signum,
            f"Finished features are kept in {self.folder}; run the same command again to resume.",
        )

    def merged(
        self, images: SizedSet, keep: bool, what: str, most: int | None = None
    ) -> Generator[Event, None, Extracted]:
        """Everything of one set, from its shards in order, or extracted now; see `collect`."""
        in_memory = self._in_memory(images)
        batches = (
            feature_batches(images, self.extractor, self.device, self.batch_size)
            if in_memory
            else self._read(images)
        )
        lost = self.lost
        work = collect(images, self.extractor, batches, keep, most)
        before = self.done
        try:
            while True:
                try:
                    done = next(work)
                except Stopped as stopped:
                    kept = f"Sets of up to {IN_MEMORY:,} images are extracted again from the start."
                    raise Stopped(stopped.signum, kept if in_memory else stopped.saved) from None
                except StopIteration as finished:
                    extracted: Extracted = finished.value
                    if self.lost > lost:
                        yield Warned(
                            f"{self.lost - lost:,} shards of {images.path} in {self.folder} "
                            "were missing or damaged and were extracted again; "
                            "give each evaluation its own --out"
                        )
                    return extracted
                if in_memory:
                    self.done = before + done
                    yield Progress(self.done, self.total, what)
        finally:
            work.close()

    def remove(self) -> None:
        """Once the report is written nobody needs the features; those of other runs stay."""
        for folder in self.folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            left = list(self.folder.iterdir())
            # Marks alone, some perhaps of runs that were stopped, serve nobody.
            if all(path.name.startswith(MARK) for path in left):
                for path in left:
                    path.unlink()
                self.folder.rmdir()

    def _finished(self, rank: int) -> Path:
        """The mark of a process that has made its share; of this launch, where that has a name."""
        named = [os.environ.get(name, "") for name in LAUNCH]
        launch = hashlib.sha256("\n".join(named).encode()).hexdigest()[:8]
        return self.folder / f"{MARK}{rank}-of-{self.share.of}-{launch}"

    def _in_memory(self, images: SizedSet) -> bool:
        return self.share.of == 1 and images.count <= IN_MEMORY

    @staticmethod
    def _spans(images: SizedSet) -> list[range]:
        return [
            range(start, min(start + ROWS, images.count)) for start in range(0, images.count, ROWS)
        ]

    def _make_one(
        self, images: SizedSet, folder: Path, index: int, span: range, what: str
    ) -> Iterator[Event]:
        names: list[str] = []
        digests: list[bytes] = []
        values = []
        work = (self.extractor, self.device, self.batch_size)
        for batch in feature_batches(images, *work, images.read(span)):
            names += batch.names
            digests += batch.digests
            values.append(batch.values)
            self.done += len(batch.names)
            yield Progress(self.done, self.total, what)
        tensors = {
            "features": torch.cat(values),
            "digests": torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).copy()),
        }
        with atomic_path(_shard(folder, index)) as temporary:
            save_tensors(temporary, tensors, {"mdt.features": f"{span.start}-{span.stop - 1}"})
        record = {"rows": len(span), "sha256": sha256_of(_shard(folder, index))}
        write_json(_record(folder, index), record)

    @staticmethod
    def _is_finished(folder: Path, index: int, span: range) -> bool:
        """Whether a shard is intact, by its checksum; one that is not is extracted again."""
        try:
            record = read_json(_record(folder, index))
            intact = record["sha256"] == sha256_of(_shard(folder, index))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(intact and record["rows"] == len(span))

    def _read(self, images: SizedSet) -> Iterator[ImageBatch]:
        """From the shards; one that another run with the same report removed is extracted again."""
        folder, work = self.folders[images.path], (self.extractor, self.device, self.batch_size)
        for index, span in enumerate(self._spans(images)):
            if not self._is_finished(folder, index, span):
                self.lost += 1
                yield from feature_batches(images, *work, images.read(span))
                continue
            held = read_tensors(_shard(folder, index))
            data = held["digests"].numpy().tobytes()
            digests = [data[k : k + 32] for k in range(0, len(data), 32)]
            yield ImageBatch([str(k) for k in span], digests, held["features"])


def _key(images: SizedSet, extractor: Extractor, device: torch.device) -> str:
    """Another key where the files, the network or the kind of device are others."""
    state = hashlib.sha256()
    about: dict[str, Any] = {
        "extractor": [extractor.name, extractor.resize, extractor.weights_sha256, extractor.width],
        "device": device.type,
        "path": str(images.path.resolve()),
        "kind": images.kind,
        "size": images.size,
        "count": images.count,
        "pixels": RULE.text,
    }
    state.update(json.dumps(about).encode())
    for file in sorted(images.files):
        stat = file.stat()
        state.update(
            f"{file} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode(
                "utf-8", "replace"
            )
        )
    return state.hexdigest()


def _shard(folder: Path, index: int) -> Path:
    return folder / f"features-{index:05d}.safetensors"


def _record(folder: Path, index: int) -> Path:
    return folder / f"features-{index:05d}.json"
