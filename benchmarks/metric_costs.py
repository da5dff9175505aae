"""Seconds and peak memory of every metric on synthetic features, one process each.

    python benchmarks/metric_costs.py [--rows 50000] [--reference 10000] [--dimensions 2048]
        [--memory 512] [--threads 2] [--device cpu] [--only fid,kid]

Features are float32 with a spectrum that falls as that of pooled ones does. Memory is that of the
whole process at its peak: Python with torch, the features of both sides, and the metric.
KID is given as many reference rows as samples, as published numbers are.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

NAMES = (
    "moments",
    "fid",
    "fid_infinity",
    "is",
    "precision_recall",
    "density_coverage",
    "kid",
    "kid_blocks",
    "cmmd",
    "memorisation",
)


def features(rows: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale_D = 1 / torch.arange(1, dimensions + 1).sqrt()
    found_ND = torch.empty(rows, dimensions)
    for part in found_ND.split(4096):
        part.copy_((torch.randn(part.shape, generator=generator) * scale_D + 0.4).clamp(min=0))
    return found_ND


def measure(name: str, options: argparse.Namespace) -> dict[str, float | str]:
    from mdt_cli.metrics import frechet, kernel, memorisation, precision_recall
    from mdt_cli.metrics.inception_score import inception_score
    from mdt_cli.metrics.statistics import Moments

    device, memory = torch.device(options.device), options.memory << 20
    both = name in ("kid", "kid_blocks", "cmmd")
    x_ND = features(options.rows, options.dimensions, 0)
    y_MD = features(options.rows if both else options.reference, options.dimensions, 1)
    if name == "cmmd":
        x_ND, y_MD = (torch.nn.functional.normalize(rows, dim=1) for rows in (x_ND, y_MD))

    def statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
        moments = Moments(options.dimensions)
        for part in rows.split(64):
            moments.add(part)
        return moments.finish()

    gaussians = ()
    if name.startswith("fid"):
        gaussians = (*statistics(x_ND), *statistics(y_MD))
    head_CD = features(1008, options.dimensions, 2) if name == "is" else torch.empty(0)
    ways: dict[str, Callable[[], object]] = {
        "moments": lambda: statistics(x_ND),
        "fid": lambda: frechet.frechet_with_error(x_ND, *gaussians),
        "fid_infinity": lambda: frechet.frechet_infinity(x_ND, *gaussians[2:]),
        "is": lambda: inception_score(x_ND, head_CD, None),
        "precision_recall": lambda: precision_recall.precision_recall(
            x_ND, y_MD, 3, device, memory
        ),
        "density_coverage": lambda: precision_recall.density_coverage(
            x_ND[: len(y_MD)], y_MD, 5, device, memory
        ),
        "kid": lambda: kernel.kernel_distance(x_ND, y_MD, device),
        "kid_blocks": lambda: kernel.block_kernel_distance(x_ND, y_MD, device=device),
        "cmmd": lambda: kernel.clip_distance(x_ND, y_MD, device),
        "memorisation": lambda: memorisation.memorisation(x_ND, y_MD, device=device, memory=memory),
    }
    start = time.perf_counter()
    ways[name]()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {
        "metric": name,
        "samples": len(x_ND),
        "reference": len(y_MD),
        "seconds": time.perf_counter() - start,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--memory", type=int, default=512, help="megabytes for distances")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.here:
        print(json.dumps(measure(options.here, options)))
        return
    print("| metric | samples | reference | seconds | peak GB |")
    print("|---|---|---|---|---|")
    for name in options.only.split(","):
        if name not in NAMES:
            raise SystemExit(f"no metric {name}; there are {', '.join(NAMES)}")
        # A process of its own: the highest memory of a process never falls.
        words = [sys.executable, __file__, *sys.argv[1:], "--here", name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        told = json.loads(done.stdout)
        print(
            f"| {name} | {told['samples']:,} | {told['reference']:,} | {told['seconds']:.1f} "
            f"| {told['peak_gb']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
