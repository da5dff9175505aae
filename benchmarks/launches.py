"""How launches of several processes end: many tiny runs of `torchrun -m mdt_cli pretrain`, counted.

    python benchmarks/launches.py --checkout OLD --checkout NEW [--count 200] [--processes 2]

Each launch trains a network of a few thousand parameters for two steps on a cache of pixels, on
the CPU with one thread a process. Checkouts take turns in blocks, so that all of them run under
the same load; `--jobs` launches run at a time. A launch that ends with a code other than 0 is
counted by how its processes ended: an aborted one has -6, the number of SIGABRT.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SETTINGS = (
    "model.hidden_size=16",
    "model.depth=4",
    "model.num_heads=2",
    "model.patch_size=4",
    "model.decoder_depth=2",
    "masking.restore_at=-2",
    "training.micro_batch_size=2",
    "checkpoint.every=1000",
    "validation.every=0",
    "preview.every=0",
)
# A launch takes ten seconds; one that takes so much longer hangs.
LONGEST = 300


@dataclass(frozen=True)
class Launch:
    """`ends`: the exit codes that torchrun reports, of the processes that did not end with 0."""

    checkout: str
    code: int | None
    ends: tuple[int, ...]
    seconds: float

    @property
    def outcome(self) -> str:
        if self.code is None:
            return "hung"
        if self.code == 0:
            return "done"
        return "aborted" if -6 in self.ends else "failed"


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def make_cache(folder: Path, checkout: Path) -> Path:
    """Forty images of 16 x 16 pixels of noise, as a cache."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(40):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index:02d}.png")
    words = ["encode-latents", str(folder / "images"), str(folder / "cache"), "--size", "16"]
    subprocess.run(
        [sys.executable, "-m", "mdt_cli", *words, "--codec", "pixels", "--workers", "1"],
        cwd=checkout,
        env=environment(checkout),
        check=True,
        capture_output=True,
    )
    return folder / "cache"


def launch(checkout: Path, cache: Path, run: Path, processes: int, steps: int) -> Launch:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc_per_node={processes}", "-m", "mdt_cli", "pretrain", str(cache), str(run)]
    words += ["-p", "mdtv2", "--device", "cpu"]
    own = (f"training.batch_size={2 * processes}", f"training.steps={steps}")
    for text in (*SETTINGS, *own):
        words += ["--set", text]
    begun = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=checkout,
        env=environment(checkout),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _, told = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        # The launcher passes it on to its processes.
        process.terminate()
        process.communicate()
        return Launch(str(checkout), None, (), time.monotonic() - begun)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    ends = tuple(int(code) for code in re.findall(r"exitcode\s+: (-?\d+)", told))
    return Launch(str(checkout), process.returncode, ends, time.monotonic() - begun)


def summary(launches: list[Launch]) -> list[dict[str, object]]:
    rows = []
    for checkout in dict.fromkeys(launch.checkout for launch in launches):
        own = [launch for launch in launches if launch.checkout == checkout]
        outcomes = [launch.outcome for launch in own]
        rows.append(
            {
                "checkout": checkout,
                "launches": len(own),
                **{name: outcomes.count(name) for name in ("done", "aborted", "failed", "hung")},
                "median_seconds": round(statistics.median(launch.seconds for launch in own), 1),
            }
        )
    return rows


def write(path: Path, asked: argparse.Namespace, launches: list[Launch]) -> None:
    record = {
        "summary": summary(launches),
        "processes": asked.processes,
        "jobs": asked.jobs,
        "block": asked.block,
        "steps": asked.steps,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "launches": [asdict(launch) for launch in launches],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, action="append", help="default: this one")
    parser.add_argument("--count", type=int, default=200, help="launches of each checkout")
    parser.add_argument("--processes", type=int, default=2, help="of a launch")
    parser.add_argument("--steps", type=int, default=2, help="of a run")
    parser.add_argument("--jobs", type=int, default=1, help="launches at a time")
    parser.add_argument("--block", type=int, default=10, help="launches before the next checkout")
    parser.add_argument("--out", type=Path, help="JSON file, written again after each block")
    asked = parser.parse_args()
    checkouts = [path.resolve() for path in asked.checkout or [here]]
    launches: list[Launch] = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(asked.jobs) as threads:
        folder = Path(name)
        cache = make_cache(folder, checkouts[0])
        for first in range(0, asked.count, asked.block):
            numbers = range(first, min(first + asked.block, asked.count))
            for place, checkout in enumerate(checkouts):
                coming = [
                    threads.submit(
                        launch,
                        checkout,
                        cache,
                        folder / f"run-{place}-{number}",
                        asked.processes,
                        asked.steps,
                    )
                    for number in numbers
                ]
                launches += [each.result() for each in coming]
                if asked.out is not None:
                    write(asked.out, asked, launches)
            for row in summary(launches):
                print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
