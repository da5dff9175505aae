"""Images per second of feature extraction, step by step, beside the bare network.

    python benchmarks/extraction_speed.py IMAGES [--count 500] [--extractor NAME] [--weights FILE]
        [--batch-size N] [--device cuda]

Decoding and resizing are timed in one thread, the network on prepared batches as the extraction
calls it (on a CPU: one thread per core, each its own batches), then all of it together.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.images.sized import sized
from mdt_cli.metrics.extract import feature_batches
from mdt_cli.metrics.extractors.build import build_extractor
from mdt_cli.metrics.extractors.extractor import extract_batch
from mdt_cli.services.evaluate.plan import CPU_BATCH, GPU_BATCH
from mdt_cli.services.runtime import pick_device


def rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    batch = asked.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    images = sized(open_images(asked.images))
    extractor = build_extractor(asked.extractor, device, asked.weights)
    raw = list(islice(images.read(), asked.count))
    count = len(raw)
    pixels = [images.decode(name, data) for name, data in raw]
    ready = torch.from_numpy(np.stack([extractor.prepare(p) for p in pixels]))
    parts = ready.split(batch)
    threads = min(8, torch.get_num_threads()) if device.type == "cpu" else 1

    def network() -> None:
        if device.type != "cpu":
            for part in parts:
                extract_batch(extractor, part.to(device))
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(lambda part: extract_batch(extractor, part), parts))

    extract_batch(extractor, parts[0].to(device))
    rows = [
        ("decode, one thread", rate(count, lambda: [images.decode(n, d) for n, d in raw])),
        ("resize, one thread", rate(count, lambda: [extractor.prepare(p) for p in pixels])),
        ("network alone", rate(count, network)),
        (
            "extraction, everything",
            rate(
                count,
                lambda: list(
                    feature_batches(images, extractor, device, batch, images.read(range(count)))
                ),
            ),
        ),
    ]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU cores"
    print(f"{extractor.name}, {count} images of {images.size}, batches of {batch}, {where}\n")
    print("| step | images/s |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value:,.1f} |")
    print(f"\nextraction / network alone: {rows[3][1] / rows[2][1]:.2f}")


if __name__ == "__main__":
    main()
