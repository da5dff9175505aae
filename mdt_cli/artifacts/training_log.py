"""How fast a run learned, and what a classifier gained: from the files of its folder alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mdt_cli.artifacts.learning_speed import (
    WINDOW,
    LearningSpeed,
    LogRecord,
    hours_per_point,
    learning_speed,
)
from mdt_cli.artifacts.run_folder import LOG, METRICS
from mdt_cli.artifacts.weights import ONLINE
from mdt_cli.json_reader import JsonLines

TOP = (1, 5)
# Beyond this, sums of a million records would overflow.
LARGEST = 1e30


def learning(run: Path) -> dict[str, Any] | None:
    """MIT, MLI and MLT with their window, as JSON; None where nothing was logged."""
    speed = _speed(run)
    if speed is None:
        return None
    finest = (
        ""
        if speed.resolution == 1
        else f"; the log has a record for every {speed.resolution} iterations and shows no more"
    )
    return {
        "MIT": speed.mit,
        "MLI": speed.mli,
        "MLT": speed.mlt,
        "window": speed.window or WINDOW,
        "resolution": speed.resolution,
        "new_minima": speed.minima,
        "iterations": speed.iterations,
        "meaning": "MIT: seconds per iteration, with all that happens between; MLI: mean "
        "iterations between new minima of the training loss, averaged over the last "
        f"{speed.window or WINDOW} iterations{finest}; MLT = MIT x MLI",
    }


def accuracy(run: Path) -> dict[str, float | None]:
    """Held-out accuracy in percent, points gained since the first look, and hours per point.

    Of the first EMA weights. Empty for a run that is no classifier.
    """
    looks = [record for record in _records(run / METRICS) if any(_names(record))]
    looks = [look for look in looks if all(map(_is_number, _accuracies(look)))]
    if not looks:
        return {}
    weights = next((name for name in _names(looks[-1]) if name != ONLINE), ONLINE)
    looks = [look for look in looks if f"top1/{weights}" in look]
    if not looks:
        return {}
    speed = _speed(run)
    hours = speed.mit * speed.iterations / 3600 if speed is not None else 0.0
    found: dict[str, float | None] = {"hours": hours}
    for k in TOP:
        key = f"top{k}/{weights}"
        first, last = (float(look[key]) for look in (looks[0], looks[-1]))
        found |= {
            f"top{k}": last,
            f"top{k}_gained": last - first,
            f"MAT@{k}": hours_per_point(hours, last - first),
        }
    return found


def _names(record: Mapping[str, Any]) -> Iterator[str]:
    """The weights whose accuracy a record holds."""
    return (key.removeprefix("top1/") for key in record if key.startswith("top1/"))


def _accuracies(record: Mapping[str, Any]) -> Iterator[Any]:
    return (record.get(f"top{k}/{name}") for k in TOP for name in _names(record))


def _is_number(value: object) -> bool:
    """Whether it is a number that sums may be made of; NaN is."""
    return type(value) in (int, float) and not abs(cast(float, value)) > LARGEST


def _speed(run: Path) -> LearningSpeed | None:
    keys = ("step", "images", "loss", "images_per_second")
    return learning_speed(
        [
            LogRecord(*(record[key] for key in keys))
            for record in _records(run / LOG)
            if all(_is_number(record.get(key)) for key in keys)
            and record["step"] > 0
            and record["images_per_second"] > 0
        ]
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from JsonLines(path)
