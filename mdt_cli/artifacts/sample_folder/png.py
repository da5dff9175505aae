"""A folder of PNG samples: what may be in it, which images are intact, and its manifest."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mdt_cli.config.base import flat
from mdt_cli.errors import MdtError
from mdt_cli.files import cannot_write, is_bystander, remove_leftovers, temporary_beside, write_json
from mdt_cli.images.open_image import UnreadableError, open_image
from mdt_cli.json_reader import parse_json

FORMAT = 1
MANIFEST, GRID = "samples.json", "grid.png"
# What `mdt evaluate` writes into a sample folder begins so.
REPORT = "report."
# Key of the PNG text chunk with the settings of the image.
TEXT = "mdt"
# The last chunk of every PNG; Pillow's check stops before its checksum.
END = b"\0\0\0\0IEND\xaeB`\x82"
LONGEST_SHOWN = 70
# The values in folders without these keys, which are newer than the first folders.
UNSAID = {"sampler.clip": False, "sampler.spacing": "ends"}
OTHER_FOLDER = "choose another folder, or give the same settings to resume this one"

Pixels = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Job:
    """What decides every byte of the samples, and which samples there are.

    settings: as in `samples.json`. labels: one per seed, None without classes. Images of a batch
    are generated together, and batches are fixed slices of the seeds: so the number of processes
    and the point where a run was stopped change nothing. picture_size: width and height of a file,
    where it is not a square of `image_size`.
    """

    settings: Mapping[str, Any]
    seeds: Sequence[int]
    labels: Sequence[int] | None
    class_names: Sequence[str]
    batch_size: int
    image_size: int
    picture_size: tuple[int, int] | None = None

    @property
    def num_batches(self) -> int:
        """How many batches the seeds fill; the last may be smaller."""
        return -(-len(self.seeds) // self.batch_size)

    def batch(self, index: int) -> range:
        """Positions in `seeds` of one batch."""
        start = index * self.batch_size
        return range(start, min(start + self.batch_size, len(self.seeds)))

    def manifest(self, kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of `samples.json`; `kind` is png or npz."""
        return {
            "format": FORMAT,
            "kind": kind,
            **self.settings,
            **facts,
            "count": len(self.seeds),
            "batch_size": self.batch_size,
            "seeds": seeds_text(self.seeds),
            "labels": None if self.labels is None else list(self.labels),
        }


class PngFolder:
    """`000007.png` is seed 7. Each image carries its settings, so a stopped run can be checked
    without any other file; `samples.json` comes last."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job

    def check(self) -> None:
        """MdtError where the folder holds what this job would not have written."""
        make_folder(self._folder)
        ours = {file_name(seed) for seed in self._job.seeds} | {MANIFEST, GRID}
        for path in sorted(self._folder.iterdir()):
            if path.name in ours or path.name.startswith(REPORT) or is_bystander(path.name):
                continue
            if re.fullmatch(r"\d{6,}\.png", path.name):
                raise MdtError(
                    f"{self._folder} holds {path.name}, a seed that was not requested",
                    "choose another folder, or ask for its seeds as well",
                )
            raise MdtError(
                f"{self._folder} holds {path.name}, which is not a sample", "choose another folder"
            )

    def missing(self, batch: int) -> list[int]:
        """Positions of a batch whose image is absent or broken.

        MdtError where an image was generated with other settings.
        """
        return [k for k in self._job.batch(batch) if not self._is_whole(k)]

    def write(self, positions: Sequence[int], images: Mapping[int, Pixels]) -> None:
        """Write the images at these positions of the seeds."""
        for position in positions:
            self._write(position, images[position])

    def finish(self, facts: Mapping[str, Any]) -> Path:
        """The manifest, after every image has reached the disk."""
        os.sync()
        remove_leftovers(self._folder, even_running=True)
        write_json(self._folder / MANIFEST, self._job.manifest("png", facts))
        return self._folder

    def images(self, positions: Collection[int]) -> dict[int, Pixels]:
        """The images at these positions of the seeds, from their files."""
        found = {}
        for position in positions:
            path = self._folder / file_name(self._job.seeds[position])
            try:
                with open_image(path, ("PNG",)) as image:
                    found[position] = np.asarray(image)
            except UnreadableError as error:
                raise MdtError(
                    f"{path} cannot be read: {error}", "run the same command again"
                ) from error
        return found

    def begin(self) -> None:
        """The manifest of fewer seeds goes: the folder is no longer what it says."""
        (self._folder / MANIFEST).unlink(missing_ok=True)

    def _text(self, position: int) -> dict[str, Any]:
        label = None if self._job.labels is None else self._job.labels[position]
        name = None if label is None else self._job.class_names[label]
        seed = self._job.seeds[position]
        return {"settings": self._job.settings, "seed": seed, "label": label, "class": name}

    def _write(self, position: int, image: Pixels) -> None:
        target = self._folder / file_name(self._job.seeds[position])
        temporary = temporary_beside(target)
        info = PngInfo()
        info.add_itxt(TEXT, json.dumps(self._text(position), ensure_ascii=False))
        try:
            # Not flushed one by one, which would cost more than small images themselves: an
            # image that a crash cut short fails its checksums and is generated again.
            Image.fromarray(image).save(temporary, format="PNG", pnginfo=info)
            temporary.replace(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _is_whole(self, position: int) -> bool:
        path = self._folder / file_name(self._job.seeds[position])
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise MdtError(f"cannot read {path}: {error.strerror}") from error
        try:
            with open_image(data, ("PNG",)) as image:
                size, mode = image.size, image.mode
                text = parse_json(image.info.get(TEXT, "null"))
                image.verify()
        except UnreadableError:
            return False
        if not isinstance(text, dict):
            raise MdtError(f"{path} was not written by mdt sample", "choose another folder")
        same_settings(path, text, json.loads(json.dumps(self._text(position))))
        wanted = self._job.picture_size or (self._job.image_size, self._job.image_size)
        return size == wanted and mode == "RGB" and data.endswith(END)


def recorded_settings(folder: Path) -> Mapping[str, Any] | None:
    """The settings in the first readable sample of a folder; None where there is none."""
    for path in sorted(folder.glob("*.png")):
        try:
            with open_image(path, ("PNG",)) as image:
                text = parse_json(image.info.get(TEXT, "null"))
        except (UnreadableError, OSError, ValueError):
            continue
        if isinstance(text, dict) and isinstance(text.get("settings"), dict):
            settings: dict[str, Any] = text["settings"]
            return settings
    return None


def file_name(seed: int) -> str:
    """The file of the image of that seed."""
    return f"{seed:06d}.png"


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as the command line takes them: runs become ranges."""
    parts: list[str] = []
    start = 0
    for k in range(1, len(seeds) + 1):
        if k == len(seeds) or seeds[k] != seeds[k - 1] + 1:
            first, last = seeds[start], seeds[k - 1]
            parts.append(f"{first}" if first == last else f"{first}-{last}")
            start = k
    return ",".join(parts)


def same_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """MdtError that lists what differs.

    A codec is compared by its weights, where their digest was recorded, else by its id.
    """
    old, new = (
        UNSAID | {key.removeprefix("settings."): value for key, value in flat(facts).items()}
        for facts in (there, here)
    )
    digests = [facts.get("codec.weights_sha256") for facts in (old, new)]
    passed = "codec.weights_sha256" if None in digests else ""
    if digests[0] == digests[1]:
        passed = "codec.id"
    differing = [
        f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key != passed
    ]
    if differing:
        raise MdtError(
            f"{path} was sampled with other settings:\n  " + "\n  ".join(differing), OTHER_FOLDER
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def make_folder(folder: Path) -> None:
    """Make the folder and prove, before any work, that files can be written into it."""
    if folder.exists() and not folder.is_dir():
        raise MdtError(f"{folder} is a file", "samples go into a folder: choose another name")
    probe = temporary_beside(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        # Another process of this job may have swept it up already.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
