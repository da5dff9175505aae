"""What one training step of each recipe costs, beside the matrix-product ceiling of this machine.

    python benchmarks/step_cost.py                  S/2 on 4x32x32 latents, batch 8, fp32, CPU
    python benchmarks/step_cost.py --device cuda    S, B and XL in bf16 with compiled blocks

Every recipe is timed in a process of its own, in several rounds that go through all recipes, with
the ceiling measured in the same process right before; the table holds medians over the rounds. A
step is what a run does: all views, backward, clipping, optimizer, averages; data is drawn before.
The table goes to docs/step-cost.md. Nothing else may run on the machine.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RECIPES = ["dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "uvit", "tread", "drop"]
# Forward GMAC per step over DiT's, by hand from the formulas of each paper's network at S/2.
PUBLISHED_RATIO = {"dit": 1.0, "mdt": 1.81, "mdtv2": 2.08, "maskdit": 1.63}
LATENT = (4, 32, 32)


class NoiseCache:
    """What a trainer asks of a cache, with noise for latents: the cost does not depend on them."""

    def __init__(self) -> None:
        from mdt_cli.artifacts.latent_cache.manifest import CacheFacts

        self.facts = CacheFacts(
            codec={"name": "noise"},
            latent_shape=LATENT,
            image_size=256,
            num_classes=1000,
            class_names=tuple(map(str, range(1000))),
            class_counts=(4,) * 1000,
            count=4000,
            flip=False,
            stochastic=False,
            dtype="float32",
            latent_mean=(0.0,) * LATENT[0],
            latent_std=(1.0,) * LATENT[0],
            digest="",
        )

    def read(self, rows: Any, flip: Any = None) -> Any:
        import torch

        from mdt_cli.artifacts.latent_cache.read import LatentRows

        return LatentRows(torch.randn(len(rows), *LATENT), None, rows % 1000)


def config_of(recipe: str, size: str, batch: int, device: str) -> Any:
    from mdt_cli.config.load import load_config

    keys = [f"training.batch_size={batch}", "model.patch_size=2", "data.conditional=true"]
    if recipe in ("maskdm", "uvit"):
        # Their own sizes are other ones; the middle block makes the depth odd.
        keys.append("model.output_conv=false")
    if size == "xl" and recipe == "mdtv2":
        keys += ["model.decoder_depth=4", "masking.restore_at=-4"]
    if device == "cuda":
        keys += ["training.precision=bf16", "training.compile=true"]
        if recipe == "mdtv2":
            keys.append("masking.selector={kind='random', bucket=16}")
    return load_config([recipe, f"size/{size}"], keys).config


def one(recipe: str, size: str, batch: int, device: str, steps: int) -> dict[str, Any]:
    """Time `steps` optimizer steps after warming up, and the ceiling, in this process."""
    import numpy as np
    import torch

    from mdt_cli.services.build.network import build_network
    from mdt_cli.services.train.batches import train_data
    from mdt_cli.services.train.cost import train_flops
    from mdt_cli.services.train.loop import train_step
    from mdt_cli.services.train.placement import place
    from mdt_cli.services.train.state import TrainState

    torch.manual_seed(0)
    config = config_of(recipe, size, batch, device)
    with tempfile.TemporaryDirectory() as folder:
        cache: Any = NoiseCache()
        network = build_network(config, LATENT, 1000)
        placement = place(config.training.precision, device)
        data = train_data(config, cache, network.grid)
        state = TrainState(Path(folder) / "run", "pretrain", data, placement, network)
        warm = 3 if device == "cpu" else 12
        micro = config.training.num_micro_batches
        drawn = [
            [data.micro_batch(step, index) for index in range(micro)]
            for step in range(warm + steps)
        ]
        ceiling = matmul_rate(device)
        for batches in drawn[:warm]:
            train_step(state, data, placement, batches)
        synchronize(device)
        times = []
        for batches in drawn[warm:]:
            begun = time.perf_counter()
            train_step(state, data, placement, batches)
            synchronize(device)
            times.append(time.perf_counter() - begun)
        with torch.device("meta"):
            plain = build_network(config, LATENT, 1000)
        flops = train_flops(plain, config, LATENT)
        ceiling = max(ceiling, matmul_rate(device))
        result = {
            "recipe": recipe,
            "size": size,
            "images_per_second": batch / float(np.median(times)),
            "train_flops": flops,
            "ceiling": ceiling,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if device == "cuda":
            result["memory"] = torch.cuda.max_memory_allocated()
            result["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            result["device"] = torch.cuda.get_device_name()
        result["torch"] = torch.__version__
        return result


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: str) -> float:
    """FLOP/s of the best of several square products: float32 on a CPU, bfloat16 on a GPU."""
    import torch

    side = 2048 if device == "cpu" else 8192
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(8):
        begun = time.perf_counter()
        a @ a
        synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--sizes", default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "step-cost.md")
    options = parser.parse_args()
    batch = options.batch or (8 if options.device == "cpu" else 256)
    if options.one:
        recipe, size = options.one.split(":")
        print(json.dumps(one(recipe, size, batch, options.device, options.steps)))
        return
    sizes = (options.sizes or ("s" if options.device == "cpu" else "s,b,xl")).split(",")
    recipes = options.recipes.split(",")
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for round_number in range(options.rounds):
        for size in sizes:
            for recipe in recipes:
                command = [sys.executable, __file__, "--device", options.device]
                command += ["--one", f"{recipe}:{size}", "--batch", str(batch)]
                command += ["--steps", str(options.steps)]
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                if done.returncode:
                    sys.exit(f"{recipe} {size}: {done.stderr[-2000:]}")
                entry = json.loads(done.stdout.splitlines()[-1])
                results.setdefault((size, recipe), []).append(entry)
                rate = entry["images_per_second"]
                print(f"round {round_number + 1} {size} {recipe}: {rate:.2f} images/s", flush=True)
    text = table(results, options.device, batch, options.rounds, options.steps)
    options.out.write_text(text, "utf-8")
    print(text)


def table(
    results: dict[tuple[str, str], list[dict[str, Any]]],
    device: str,
    batch: int,
    rounds: int,
    steps: int,
) -> str:
    any_entry = next(iter(results.values()))[0]
    hardware = any_entry.get("device", f"{os.cpu_count()} CPU cores, {cpu_name()}")
    what = "fp32" if device == "cpu" else "bf16 autocast, blocks compiled"
    lines = [
        "# Cost of a training step",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware}, torch {any_entry['torch']}, {what}, patch 2, "
        f"latents 4 x 32 x 32, batch {batch}. Medians of {rounds} rounds of {steps} steps, each "
        "recipe in its own process, nothing else running: "
        f"`python benchmarks/step_cost.py{'' if device == 'cpu' else ' --device cuda'}`.",
        "",
        "`ceiling` is the FLOP rate as a share of the fastest square matrix product measured in "
        "the same process; `x DiT` is the time of a step over that of DiT in the same round, `by "
        "FLOP` the ratio of counted FLOPs (counted as `mdt pretrain --dry-run` does), `published` "
        "that of the official networks.",
        "",
        "| size | recipe | images/s | GFLOP/image | ceiling | x DiT | by FLOP | published "
        "| peak memory |" + (" graphs |" if device == "cuda" else ""),
        "|---|---|---|---|---|---|---|---|---|" + ("---|" if device == "cuda" else ""),
    ]
    for (size, recipe), entries in results.items():
        middle = statistics.median
        base = results.get((size, "dit"))
        ratio = counted = "-"
        if base:
            pairs = zip(base, entries, strict=True)
            ratios = [b["images_per_second"] / e["images_per_second"] for b, e in pairs]
            ratio = f"{middle(ratios):.2f}"
            counted = f"{entries[0]['train_flops'] / base[0]['train_flops']:.2f}"
        shares = [e["train_flops"] * e["images_per_second"] / e["ceiling"] for e in entries]
        published = PUBLISHED_RATIO.get(recipe) if size == "s" else None
        cells = [
            size.upper(),
            recipe,
            f"{middle(e['images_per_second'] for e in entries):.2f}",
            f"{entries[0]['train_flops'] / 1e9:.1f}",
            f"{middle(shares):.0%}",
            ratio,
            counted,
            "-" if published is None else f"{published:.2f}",
            f"{middle(e['memory'] for e in entries) / 2**30:.2f} GiB",
        ]
        if device == "cuda":
            cells.append(str(entries[0]["graphs"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
