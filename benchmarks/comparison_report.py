"""Write docs/comparison.md and docs/comparison.png from the summary of `compare.py`.

python benchmarks/comparison_report.py comparison-work/summary.json
"""

import json
import math
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from compare import (  # noqa: E402 - beside this file
    EQUAL,
    LEARNING_RATES,
    NULL_SEEDS,
    OWN,
    RECIPES,
    SAMPLES,
    SCALES,
    SEEDS,
)
from step_cost import cpu_name  # noqa: E402 - beside this file

Run = dict[str, Any]


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def pm(values: Sequence[float], digits: int) -> str:
    mean, error = mean_se(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


class Study:
    def __init__(self, summary: dict[str, Any]) -> None:
        self.costs, self.best, self.swept = summary["costs"], summary["best"], summary["swept"]
        self.minutes = summary["minutes"]
        self.again = summary["costs_again"]
        self.runs = {(r["job"]["recipe"], r["job"]["seed"]): r for r in summary["runs"]}

    def of(self, recipe: str, seeds: Sequence[int] = SEEDS) -> list[Run]:
        return [self.runs[recipe, seed] for seed in seeds]

    def distances(
        self, recipe: str, budget: str, scale: float, seeds: Sequence[int] = SEEDS
    ) -> list[float]:
        return [r["budgets"][budget]["distance"][str(scale)] for r in self.of(recipe, seeds)]

    def losses(self, recipe: str, budget: str, seeds: Sequence[int] = SEEDS) -> list[float]:
        return [r["budgets"][budget]["loss"] for r in self.of(recipe, seeds)]

    def best_guided(self, recipe: str, budget: str) -> tuple[float, list[float]]:
        """The scale with the lowest mean, and its distances: chosen on these very samples."""
        per_scale = {scale: self.distances(recipe, budget, scale) for scale in SCALES}
        scale = min(per_scale, key=lambda s: statistics.fmean(per_scale[s]))
        return scale, per_scale[scale]

    def paired(self, recipe: str, other: str, budget: str) -> list[float]:
        """Differences of unguided distances, seed by seed; below 0: `recipe` is better."""
        mine, theirs = (self.distances(name, budget, 1.0) for name in (recipe, other))
        return [a - b for a, b in zip(mine, theirs, strict=True)]

    def half_way(self, recipe: str) -> list[float]:
        """Unguided distances at half of the shorter budget, from the first stage."""
        return [r["curve"][0]["distance"] for r in self.of(recipe)]

    def verdict(self, recipe: str, other: str, budget: str) -> str:
        mean, error = mean_se(self.paired(recipe, other, budget))
        if abs(mean) <= 2 * error:
            return "tie"
        return "better" if mean < 0 else "worse"


def table(study: Study, budget: str) -> list[str]:
    rows = [
        "| recipe | steps | lr | held-out loss | FD, no guidance | FD, best guidance (scale) "
        "| FD minus DiT's, paired | against DiT | against naive dropping |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe in RECIPES:
        scale, guided = study.best_guided(recipe, budget)
        to_dit = "-" if recipe == "dit" else pm(study.paired(recipe, "dit", budget), 1)
        rows.append(
            f"| {recipe} | {study.of(recipe)[0]['budgets'][budget]['steps']:,} "
            f"| {study.best[recipe]:g} | {pm(study.losses(recipe, budget), 4)} "
            f"| {pm(study.distances(recipe, budget, 1.0), 1)} | {pm(guided, 1)} ({scale:g}) "
            f"| {to_dit} | {'-' if recipe == 'dit' else study.verdict(recipe, 'dit', budget)} "
            f"| {'-' if recipe == 'drop' else study.verdict(recipe, 'drop', budget)} |"
        )
    return rows


def cost_table(study: Study) -> list[str]:
    rows = [
        "| recipe | ms/step, first stage | x DiT | x DiT by FLOP | ms/step, last stage "
        "| first stage, after the runs |",
        "|---|---|---|---|---|---|",
    ]
    base = study.costs["dit"]
    for recipe in RECIPES:
        cost = study.costs[recipe]
        rows.append(
            f"| {recipe} | {1e3 * cost['first']:.0f} | {cost['first'] / base['first']:.2f} "
            f"| {cost['first_flops'] / base['first_flops']:.2f} | {1e3 * cost['last']:.0f} "
            f"| {1e3 * study.again[recipe]['first']:.0f} |"
        )
    return rows


def claims(study: Study) -> list[str]:
    """What may be said: beyond two standard errors under a budget, and already half-way."""
    lines = []
    for budget, words in (("time", "equal time"), ("flop", "equal FLOP")):
        for recipe in RECIPES:
            if recipe == "dit" or study.verdict(recipe, "dit", budget) != "better":
                continue
            half = [
                a - b for a, b in zip(study.half_way(recipe), study.half_way("dit"), strict=True)
            ]
            mean, error = mean_se(half)
            held = (
                "and already at half of the shorter budget"
                if mean < -2 * error
                else "but not yet at half of the shorter budget"
            )
            control = study.verdict(recipe, "drop", budget)
            beside = "" if recipe == "drop" else f"; {control} than naive dropping"
            beside = beside.replace("tie than", "a tie with")
            lines.append(f"- {words}: {recipe} is better than DiT at the end, {held}{beside}.")
    return lines or ["- No recipe is better than DiT beyond two standard errors."]


def null_differences(study: Study) -> list[float]:
    """DiT against itself with other seeds, equal time."""
    theirs = study.distances("dit", "time", 1.0, NULL_SEEDS)
    return [b - a for a, b in zip(study.distances("dit", "time", 1.0), theirs, strict=True)]


def caution(study: Study) -> str:
    """Which of the gains are larger than what other seeds do to DiT."""
    null = abs(statistics.fmean(null_differences(study)))
    larger = [
        f"{recipe} (equal {budget})"
        for budget in ("time", "flop")
        for recipe in RECIPES
        if recipe != "dit"
        and study.verdict(recipe, "dit", budget) == "better"
        and -statistics.fmean(study.paired(recipe, "dit", budget)) > null
    ]
    named = ", ".join(larger) if larger else "none"
    return (
        f"Changing only the seeds moves DiT's mean by {null:.1f}. Gains larger than that: {named}. "
        "Three seeds make a weak test: read every line below as a hint, not as a finding."
    )


def plot(study: Study, target: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for recipe in RECIPES:
        cost, runs = study.costs[recipe], study.of(recipe)
        seconds = [point["step"] * cost["first"] for point in runs[0]["curve"]]
        for axes, key in ((left, "distance"), (right, "loss")):
            values = [[run["curve"][i][key] for run in runs] for i in range(len(seconds))]
            if key == "distance":
                values.append(study.distances(recipe, "time", 1.0))
            else:
                values.append(study.losses(recipe, "time"))
            means, errors = zip(*map(mean_se, values), strict=True)
            at = [*seconds, 60 * study.minutes]
            axes.errorbar(at, means, yerr=errors, marker="o", markersize=3, capsize=2, label=recipe)
    left.set(xlabel="seconds on one core", ylabel="FD, efficientnet-lite0, no guidance")
    right.set(xlabel="seconds on one core", ylabel="held-out loss, all tokens")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    left.legend(fontsize=8, ncols=2)
    figure.savefig(target, dpi=130)


def main() -> None:
    study = Study(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    null = null_differences(study)
    plot(study, ROOT / "docs" / "comparison.png")
    own = "; ".join(f"{recipe}: {', '.join(keys)}" for recipe, keys in OWN.items())
    lines = [
        "# Masked recipes compared",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, one core per run. Made by "
        f"`python benchmarks/compare.py --minutes {study.minutes:g}`; the protocol is in its first "
        "lines.",
        "",
        f"The 1,797 embedded digits (89 held out), 8 x 8 pixels, one token per pixel. Budget: "
        f"{60 * study.minutes:g} seconds of one core for each run, or the FLOP that DiT counts in "
        f"that time. Seeds {', '.join(map(str, SEEDS))}, rows and noise the same for all. "
        f"FD is the Fréchet distance between efficientnet-lite0 features of {SAMPLES} samples and "
        "of all real digits (6 Heun steps, EMA weights, all tokens); it is not FID, and at this "
        "count it is biased upwards, equally for all. ± is one standard error over three seeds. "
        f"Learning rate: the best of {', '.join(f'{lr:g}' for lr in LEARNING_RATES)} by held-out "
        "loss after a quarter of the time. Guidance: the best of one shared grid, "
        f"{', '.join(f'{s:g}' for s in SCALES)}.",
        "",
        "Limits: this is a toy with eight blocks, far from converged. It rewards many cheap "
        "updates, and the second stage starts with a fresh optimizer at the full learning rate, "
        "which hurts short runs. It shows which recipe learns digits fastest in minutes on a CPU, "
        "and nothing about ImageNet.",
        "",
        f"The same for all: `{' '.join(EQUAL)}`. To fit eight blocks and 64 tokens, {own}.",
        "",
        "## Equal time",
        "",
        *table(study, "time"),
        "",
        "## Equal FLOP",
        "",
        *table(study, "flop"),
        "",
        f"Difference between identical recipes: DiT with seeds {', '.join(map(str, NULL_SEEDS))} "
        f"minus DiT with seeds {', '.join(map(str, SEEDS))}, equal time: {pm(null, 1)}.",
        "",
        "## What can be concluded",
        "",
        "A difference counts if it exceeds two standard errors of the paired differences; anything "
        "less is a tie.",
        "",
        caution(study),
        "",
        *claims(study),
        "",
        "![Distance and held-out loss over time](comparison.png)",
        "",
        "## Cost of a step",
        "",
        "One core, medians of three rounds; these times converted the time budget into steps. The "
        "last column was measured after all runs, with nothing else running.",
        "",
        *cost_table(study),
    ]
    target = ROOT / "docs" / "comparison.md"
    target.write_text("\n".join(lines) + "\n", "utf-8")
    print(target.read_text("utf-8"))


if __name__ == "__main__":
    main()
