"""Reports of several sets side by side: which is best, and where that is undecided."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdt_cli.config.evaluation import facts_of_key, lower_is_better
from mdt_cli.metrics.intervals import Score, is_tie

FORMAT = 1


def side_by_side(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reports themselves and, for each metric, the best and those that tie with it.

    Where an error is not known a tie cannot be recognised, and no best is named.
    """
    shared = [
        name
        for name in reports[0]["metrics"]
        if all(name in report["metrics"] for report in reports)
    ]
    return {
        "format": FORMAT,
        "comparison": {
            "sets": [report["samples"]["path"] for report in reports],
            "metrics": {name: _compared(name, reports) for name in shared},
            "cautions": cautions(reports),
        },
        "reports": list(reports),
    }


def cautions(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why these numbers are not directly comparable with each other."""
    found = []
    counts = [report["samples"]["count"] for report in reports]
    if len(set(counts)) > 1:
        listed = ", ".join(f"{count:,}" for count in counts)
        found.append(
            f"the sets differ in size ({listed}). Smaller sets have upward-biased distances and "
            "lower coverage, so no winner is marked for these metrics"
        )
    jpegs = [report["samples"].get("jpegs", 0) > 0 for report in reports]
    if any(jpegs) and not all(jpegs):
        found.append(
            "some of the sets are JPEG and some are not: JPEG artefacts change every score"
        )
    return found


def _compared(name: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metrics = [report["metrics"][name] for report in reports]
    values = [float(metric["value"]) for metric in metrics]
    facts = facts_of_key(name)
    bias = facts.bias if facts is not None else "none"
    # The entry of a metric that too few samples bias says so.
    moved = bias == "count" or (bias == "few" and any("bias" in metric for metric in metrics))
    unequal = len({metric["samples"] for metric in metrics}) > 1
    if (moved and unequal) or any(_error(metric) is None for metric in metrics):
        return {"values": values, "best": None, "ties_with_best": []}
    lower = lower_is_better(name)
    best = min(range(len(values)), key=lambda k: values[k] if lower else -values[k])
    ties = [k for k in range(len(values)) if k != best and tied(metrics[k], metrics[best])]
    return {"values": values, "best": best, "ties_with_best": ties}


def tied(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scores are equal within the errors that they do not share."""
    return is_tie(*(Score(metric["value"], _error(metric)) for metric in (one, other)))


def _error(metric: Mapping[str, Any]) -> float | None:
    """The error over other samples with the same reference, where the metric reports it."""
    found: float | None = metric.get("standard_error_of_samples", metric.get("standard_error"))
    return found
