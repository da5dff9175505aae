"""Samples as one npz in the layout of ADM's evaluator: `arr_0` uint8 NHWC, `arr_1` labels."""

import json
import os
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mdt_cli.artifacts.sample_folder.png import (
    GRID,
    MANIFEST,
    REPORT,
    Job,
    Pixels,
    make_folder,
    same_settings,
)
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, is_bystander, remove_leftovers, temporary_beside, write_json
from mdt_cli.images.npz import RowFile
from mdt_cli.json_reader import read_json

PARTS, SETTINGS = "parts", "settings.json"


class NpzFolder:
    """Each batch is a file of its own until all are there; joining them needs one batch of memory.

    Joining may be stopped anywhere: the parts go last.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        self._parts = folder / PARTS
        side = job.image_size
        self._shape = (len(job.seeds), side, side, 3)
        self._file = folder / f"samples_{'x'.join(str(n) for n in self._shape)}.npz"

    def check(self) -> None:
        """MdtError where the folder holds what this job would not have written."""
        make_folder(self._folder)
        ours = {self._file.name, PARTS, MANIFEST, GRID}
        for path in sorted(self._folder.iterdir()):
            if not (path.name in ours or path.name.startswith(REPORT) or is_bystander(path.name)):
                raise MdtError(
                    f"{self._folder} holds {path.name}, which does not belong to this job",
                    "choose another folder",
                )
        for place in (self._folder / MANIFEST, self._parts / SETTINGS):
            if place.is_file():
                self._compare(place)

    def missing(self, batch: int) -> list[int]:
        """All positions of a batch, or none: its part is complete or absent."""
        done = self._is_joined() or self._is_whole(batch)
        return [] if done else list(self._job.batch(batch))

    def begin(self) -> None:
        """MdtError if another process has started with other settings.

        Parts do not record their settings, so the first process records them for all:
        processes that look for the newest checkpoint may find two.
        """
        if self._is_joined():
            return
        place = self._parts / SETTINGS
        mine = temporary_beside(self._parts / f"own-{SETTINGS}")
        write_json(mine, self._facts())
        try:
            # Unlike a rename, a link does not replace a file.
            os.link(mine, place)
        except FileExistsError:
            self._compare(place)
        except OSError:
            # A file system without links.
            if place.is_file():
                self._compare(place)
            else:
                write_json(place, self._facts())
        finally:
            mine.unlink(missing_ok=True)

    def write(self, positions: Sequence[int], images: Mapping[int, Pixels]) -> None:
        """Write the images of one batch as its part."""
        rows = np.stack([images[position] for position in positions])
        # A handle: given a name, NumPy would add its own suffix to the temporary one.
        part = self._part(positions[0] // self._job.batch_size)
        with atomic_path(part) as temporary, temporary.open("wb") as file:
            np.save(file, rows)

    def finish(self, facts: Mapping[str, Any]) -> Path:
        """Join, write the manifest, remove the parts."""
        if not self._is_joined():
            with atomic_path(self._file) as temporary:
                self._join(temporary)
            write_json(
                self._folder / MANIFEST,
                self._job.manifest("npz", {**facts, "file": self._file.name}),
            )
        shutil.rmtree(self._parts, ignore_errors=True)
        remove_leftovers(self._folder, even_running=True)
        return self._file

    def images(self, positions: Collection[int]) -> dict[int, Pixels]:
        """Only the rows asked for are read."""
        with RowFile(self._file, "arr_0") as rows:
            return dict(rows.read(sorted(positions)))

    def _compare(self, place: Path) -> None:
        """MdtError where the file records other settings."""
        try:
            there = read_json(place)
        except ValueError as error:
            raise MdtError(f"{place} cannot be read", "choose another folder") from error
        same_settings(place, {key: there.get(key) for key in self._facts()}, self._facts())

    def _facts(self) -> dict[str, Any]:
        """What must agree for parts to belong together."""
        manifest = self._job.manifest("npz", {})
        return {key: json.loads(json.dumps(value)) for key, value in manifest.items()}

    def _is_joined(self) -> bool:
        return self._file.is_file() and (self._folder / MANIFEST).is_file()

    def _part(self, batch: int) -> Path:
        return self._parts / f"part-{batch:06d}.npy"

    def _is_whole(self, batch: int) -> bool:
        wanted = (len(self._job.batch(batch)), *self._shape[1:])
        try:
            with self._part(batch).open("rb") as file:
                rows = _header(file)
                size = os.fstat(file.fileno()).st_size - file.tell()
        except (OSError, ValueError, EOFError):
            return False
        return rows == (wanted, np.dtype(np.uint8)) and size == int(np.prod(wanted))

    def _join(self, target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            with _member(archive, "arr_0.npy") as stream:
                _write_header(stream, self._shape, np.dtype(np.uint8))
                for batch in range(self._job.num_batches):
                    stream.write(np.load(self._part(batch), allow_pickle=False).tobytes())
            if self._job.labels is not None:
                labels = np.asarray(self._job.labels, dtype=np.int64)
                with _member(archive, "arr_1.npy") as stream:
                    _write_header(stream, labels.shape, labels.dtype)
                    stream.write(labels.tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # A fixed date, so that the same samples give the same file.
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(stream, header)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype
