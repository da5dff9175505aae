"""Images per second of `encode-latents` with the pixel codec, beside a bare Pillow decode loop.

    python benchmarks/encode_rate.py IMAGES.zip [--size 32] [--workers N] [--repeats 3]

Both use the same number of processes and the same start method, and both times hold everything:
starting the processes, listing the zip and, for `encode-latents`, the finished cache on disk.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest


def decode_all(path: str, names: list[str]) -> int:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with Image.open(BytesIO(archive.read(name))) as image:
                total += np.asarray(image.convert("RGB")).shape[0] > 0
    return total


def bare(path: str, workers: int) -> float:
    start = time.perf_counter()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    parts = [(path, names[k::workers]) for k in range(workers)]
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        count = sum(pool.starmap(decode_all, parts))
    return count / (time.perf_counter() - start)


def ours(path: str, workers: int, size: int) -> float:
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    try:
        request = EncodeRequest(Path(path), folder / "cache", size=size, workers=workers)
        for event in encode_latents(request):
            last = event
        return last.count / (time.perf_counter() - start)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    pairs = [
        (bare(asked.images, asked.workers), ours(asked.images, asked.workers, asked.size))
        for _ in range(asked.repeats)
    ]
    for one, other in pairs:
        print(f"bare {one:.0f} images/s, ours {other:.0f} images/s, ratio {other / one:.2f}")
    best = [max(column) for column in zip(*pairs, strict=True)]
    print(f"best of {len(pairs)}, {asked.workers} processes: ratio {best[1] / best[0]:.2f}")


if __name__ == "__main__":
    main()
