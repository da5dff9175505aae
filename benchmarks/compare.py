"""Masked recipes against each other with everything else equal; writes docs/comparison.md.

    python benchmarks/compare.py [--minutes 1] [--work FOLDER]

Embedded digits as pixels, 64 tokens, one network size, one objective (EDM), one optimizer, one
batch size, one average, the same rows and noise for the same seed. A recipe keeps its masking,
its route, its losses and the parts of a network that these need. The last tenth of every budget
is a second stage with a falling learning rate: on all tokens for the recipes that publish one,
as before for the others.

Two budgets: equal time, and equal counted FLOP (those of DiT in that time). Time is turned into
steps by a measurement of each recipe's step on one core, alone, at the start; the runs themselves
then go two at a time, and which steps they make does not depend on how busy the machine is.
Learning rates come from the same three points for every recipe, by held-out loss on all tokens.
The command may be stopped and given again: finished pieces are kept in the work folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Recipe and whether it publishes a last stage on all tokens.
RECIPES = {
    "dit": False,
    "mdt": False,
    "mdtv2": False,
    "maskdit": True,
    "mcdit": True,
    "maskdm": True,
    "tread": False,
    "drop": True,
}
SEEDS = (0, 1, 2)
# A second set of seeds for DiT alone shows how far equal things differ.
NULL_SEEDS = (3, 4, 5)
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
SCALES = (1.0, 1.5, 2.5)
SWEEP_SHARE = 0.25
CURVE_SHARE = 0.5
SAMPLES = 200

EQUAL = (
    "model.patch_size=1",
    "model.hidden_size=64",
    "model.depth=8",
    "model.num_heads=4",
    "objective={kind='edm'}",
    "data.conditional=true",
    "data.class_dropout=0.1",
    "data.flip=false",
    "data.held_out=89",
    "training.batch_size=64",
    "training.clip_norm=1.0",
    "lr_schedule={kind='constant', warmup=20}",
    "ema={decays=[0.99], warmup=true}",
    "preview.every=0",
    "sampling={solver='heun', steps=6, uint8='round'}",
)
# What does not fit eight blocks, or 64 tokens, as published.
OWN = {
    "mdtv2": ("model.decoder_depth=4", "masking.restore_at=-4"),
    "maskdit": ("model.narrow_decoder={depth=4, hidden_size=32, num_heads=2}",),
    "mcdit": ("model.narrow_decoder={depth=4, hidden_size=32, num_heads=2}",),
    "maskdm": ("masking.selector={kind='block', size=2}", "masking.ratio.value=0.5"),
}


@dataclass(frozen=True)
class Job:
    """Train a recipe with one seed and learning rate to each of `ends` (budget, total steps)."""

    recipe: str
    seed: int
    lr: float
    ends: tuple[tuple[str, int], ...]
    scales: tuple[float, ...]

    @property
    def scored(self) -> bool:
        """A sweep over learning rates draws no samples and has no second stage."""
        return bool(self.scales)

    @property
    def name(self) -> str:
        return f"{'run' if self.scored else 'sweep'}-{self.recipe}-s{self.seed}-lr{self.lr:g}"


def assignments(recipe: str, seed: int, lr: float, steps: int, every: int) -> list[str]:
    return [
        *EQUAL,
        f"optimizer={{kind='adamw', lr={lr}}}",
        *OWN.get(recipe, ()),
        f"training.seed={seed}",
        f"training.steps={steps}",
        f"checkpoint={{every={every}, keep_last=1000}}",
        f"validation.every={every}",
        f"log.every={every}",
    ]


def last_presets(recipe: str) -> list[str]:
    return ["unmasked"] if RECIPES[recipe] else []


def step_time(recipe: str, work: Path) -> dict[str, float]:
    """Seconds of a step of either stage on one core, and its FLOP, measured alone."""
    import torch

    from mdt_cli.artifacts.latent_cache.read import open_cache
    from mdt_cli.config.load import load_config
    from mdt_cli.services.build.network import build_network
    from mdt_cli.services.train.batches import train_data
    from mdt_cli.services.train.cost import train_flops
    from mdt_cli.services.train.loop import train_step
    from mdt_cli.services.train.placement import place
    from mdt_cli.services.train.state import TrainState

    cache = open_cache(work / "cache")
    shape, classes = cache.facts.latent_shape, cache.facts.num_classes
    result: dict[str, float] = {}
    for stage, presets in (("first", [recipe]), ("last", [recipe, *last_presets(recipe)])):
        config = load_config(presets, assignments(recipe, 0, 1e-3, 1000, 1000)).config
        network = build_network(config, shape, classes)
        placement = place("no", "cpu")
        data = train_data(config, cache, network.grid)
        state = TrainState(work / "timing", "pretrain", data, placement, network)
        times = []
        if stage == "last" and not last_presets(recipe):
            result |= {"last": result["first"], "last_flops": result["first_flops"]}
            continue
        for step in range(16):
            begun = time.perf_counter()
            train_step(state, data, placement, [data.micro_batch(step, 0)])
            times.append(time.perf_counter() - begun)
        with torch.device("meta"):
            plain = build_network(config, shape, classes)
        result[stage] = statistics.median(times[4:])
        result[f"{stage}_flops"] = train_flops(plain, config, shape) * config.training.batch_size
    return result


def steps_for(costs: dict[str, float], budget: float, what: str) -> int:
    """Steps of both stages together, nine of ten in the first, that use up the budget."""
    step = 0.9 * costs[f"first{what}"] + 0.1 * costs[f"last{what}"]
    return int(budget / step)


def do(job: Job, work: Path) -> dict[str, Any]:
    """Both stages to each end; held-out losses on all tokens, and distances of samples."""
    from mdt_cli.config.load import load_config
    from mdt_cli.services.train.start import finetune, pretrain, starting_config

    first = work / "runs" / job.name
    every = max(1, round(CURVE_SHARE * job.ends[0][1]))
    result: dict[str, Any] = {"job": asdict(job), "budgets": {}, "curve": []}
    # The learning rate of the first stage is constant: a longer run begins as the shorter one.
    for budget, steps in job.ends:
        begin = round(0.9 * steps) if job.scored else steps
        keys = assignments(job.recipe, job.seed, job.lr, begin, every)
        for _ in pretrain(work / "cache", first, load_config([job.recipe], keys), device="cpu"):
            pass
        if not job.scored:
            result["budgets"][budget] = {"loss": held_out(first)[-1][1]}
            continue
        last, rest = first.with_name(f"{job.name}-{budget}"), steps - begin
        keys = [
            f"training.steps={rest}",
            "lr_schedule={kind='cosine', warmup=0}",
            f"optimizer.lr={job.lr}",
            f"checkpoint.every={rest}",
            f"validation.every={rest}",
            f"log.every={rest}",
        ]
        loaded = starting_config(first, None, last_presets(job.recipe), keys)
        for _ in finetune(work / "cache", last, first, None, loaded, device="cpu"):
            pass
        distances = {
            scale: distance(last, f"{job.name}-{budget}-{scale}", job.seed, scale, work)
            for scale in job.scales
        }
        loss = held_out(last)[-1][1]
        result["budgets"][budget] = {"steps": steps, "loss": loss, "distance": distances}
    if len(job.scales) > 1:
        for step, loss in held_out(first):
            if step % every == 0 and step < job.ends[0][1]:
                weights = first / "checkpoints" / f"step-{step:07d}"
                far = distance(weights, f"{job.name}-at-{step}", job.seed, 1.0, work)
                result["curve"].append({"step": step, "loss": loss, "distance": far})
    return result


def held_out(run: Path) -> list[tuple[int, float]]:
    """(step, loss of the average on all tokens)."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return [(r["step"], r["held_out/full/0.99"]) for r in map(json.loads, lines)]


def distance(weights: Path, name: str, seed: int, scale: float, work: Path) -> float:
    """Fréchet distance of SAMPLES pictures, the classes in turn, to all the real ones."""
    from mdt_cli.services.evaluate.evaluate import score
    from mdt_cli.services.sample.sample import SampleRequest, sample

    out = work / "samples" / name
    first = 10_000 * seed
    request = SampleRequest(
        weights,
        out,
        seeds=f"{first}-{first + SAMPLES - 1}",
        classes="all",
        guidance=scale,
        format="npz",
        batch_size=100,
        device="cpu",
    )
    for _ in sample(request):
        pass
    report = score(
        next(out.glob("*.npz")),
        work / "reference.npz",
        extractor="efficientnet-lite0",
        metrics=("fid",),
        out=work / "scores" / f"{name}.json",
    )
    return float(report["metrics"]["fd_efficientnet_lite0"]["value"])


def prepare(work: Path) -> None:
    """The cache of the digits and the statistics of the reference."""
    from mdt_cli.services.encode.encode import encode_latents
    from mdt_cli.services.encode.request import EncodeRequest
    from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
    from mdt_cli.services.quickstart import digits

    for name in ("runs", "samples", "scores", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
    for _ in encode_latents(EncodeRequest(digits(), work / "cache", size=8, workers=1)):
        pass
    if not (work / "reference.npz").exists():
        request = EvaluateRequest(
            digits(),
            digits(),
            metrics=("fid",),
            extractor="efficientnet-lite0",
            out=work / "scores" / "reference.json",
            save_reference=work / "reference.npz",
        )
        for _ in evaluate(request):
            pass


def run_all(jobs: list[Job], work: Path) -> dict[str, dict[str, Any]]:
    """Two at a time, each on one core; what is finished is not done again."""

    def one(job: Job) -> tuple[str, dict[str, Any]]:
        target = work / "results" / f"{job.name}.json"
        if not target.exists():
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--work", str(work), "--job"]
            done = subprocess.run(
                [*command, json.dumps(asdict(job))],
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"{job.name}: {done.stderr[-3000:]}")
            print(f"{time.strftime('%H:%M:%S')} {job.name}", flush=True)
        return job.name, json.loads(target.read_text("utf-8"))

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--work", type=Path, default=Path("comparison-work"))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--time", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.time:
        print(json.dumps(step_time(options.time, work)))
        return
    if options.job:
        fields = json.loads(options.job)
        ends = tuple((name, steps) for name, steps in fields["ends"])
        job = Job(**{**fields, "ends": ends, "scales": tuple(fields["scales"])})
        result = do(job, work)
        target = work / "results" / f"{job.name}.json"
        target.with_suffix(".part").write_text(json.dumps(result), "utf-8")
        target.with_suffix(".part").replace(target)
        return
    prepare(work)
    costs = measure(work)
    budget = options.minutes * 60
    flops = steps_for(costs["dit"], budget, "") * costs["dit"]["first_flops"]
    sweep = [
        Job(recipe, 0, lr, (("sweep", int(SWEEP_SHARE * steps)),), ())
        for recipe, steps in ((name, steps_for(costs[name], budget, "")) for name in RECIPES)
        for lr in LEARNING_RATES
    ]
    swept = run_all(sweep, work)
    best = {
        recipe: min(
            LEARNING_RATES,
            key=lambda lr: swept[f"sweep-{recipe}-s0-lr{lr:g}"]["budgets"]["sweep"]["loss"],
        )
        for recipe in RECIPES
    }
    jobs = []
    for recipe in RECIPES:
        ends = {
            "time": steps_for(costs[recipe], budget, ""),
            "flop": steps_for(costs[recipe], flops, "_flops"),
        }
        ordered = tuple(sorted(ends.items(), key=lambda end: end[1]))
        jobs += [Job(recipe, seed, best[recipe], ordered, SCALES) for seed in SEEDS]
    lone = (("time", steps_for(costs["dit"], budget, "")),)
    jobs += [Job("dit", seed, best["dit"], lone, (1.0,)) for seed in NULL_SEEDS]
    jobs.sort(key=lambda job: job.seed)
    results = run_all(jobs, work)
    summary = {
        "minutes": options.minutes,
        "costs": costs,
        "costs_again": measure(work, "costs-again", num_rounds=1),
        "best": best,
        "swept": {name: entry["budgets"]["sweep"]["loss"] for name, entry in swept.items()},
        "runs": list(results.values()),
    }
    (work / "summary.json").write_text(json.dumps(summary, indent=1), "utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "comparison_report.py")]
    subprocess.run([*command, str(work / "summary.json")], check=True)


def measure(work: Path, name: str = "costs", num_rounds: int = 3) -> dict[str, dict[str, float]]:
    """Medians of several rounds through all recipes, one process at a time."""
    target = work / f"{name}.json"
    if target.exists():
        return json.loads(target.read_text("utf-8"))
    rounds: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
    for _ in range(num_rounds):
        for recipe in RECIPES:
            command = [sys.executable, __file__, "--work", str(work), "--time", recipe]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{recipe}: {done.stderr[-3000:]}")
            rounds[recipe].append(json.loads(done.stdout.splitlines()[-1]))
    costs = {
        recipe: {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        for recipe, entries in rounds.items()
    }
    target.write_text(json.dumps(costs, indent=1), "utf-8")
    return costs


if __name__ == "__main__":
    main()
