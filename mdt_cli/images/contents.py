"""What identifies the content of an image, and of the file it lies in."""

import hashlib
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mdt_cli.images.decode import Pixels, Raw

# Some file systems keep whole seconds, FAT every other one: a file that was written this recently
# may be written again without a sign of it.
COARSE_NS = 2 * 10**9


def content_digest(raw: Raw) -> str:
    """SHA-256 of an image as its container holds it: of the encoded bytes, or size and pixels."""
    if isinstance(raw, np.ndarray):
        return pixel_digest(raw).hex()
    return hashlib.sha256(raw if isinstance(raw, bytes) else raw.read_bytes()).hexdigest()


def pixel_digest(pixels_HWC: Pixels) -> bytes:
    """SHA-256 of an image's size and pixels: the same in a folder, a zip or an npz."""
    shape = struct.pack("<2I", pixels_HWC.shape[0], pixels_HWC.shape[1])
    return hashlib.sha256(shape + np.ascontiguousarray(pixels_HWC).tobytes()).digest()


def marks(files: Iterable[Path], root: Path) -> dict[str, str]:
    """Size and times of each file, by its path below `root`: what shows that it was written.

    A file is left out where that is not certain: it cannot be looked at, or its times are too
    coarse and too new.
    """
    found = {}
    now = time.time_ns()
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            continue
        if facts.st_mtime_ns % 10**9 == 0 and now - facts.st_mtime_ns < COARSE_NS:
            continue
        found[mark_name(file, root)] = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    return found


def mark_name(file: Path, root: Path) -> str:
    """The name of a file in `marks`."""
    return str(file).removeprefix(str(root)).lstrip(os.sep) or "."
