"""How fast a run learns, from its log alone: MIT, MLI, MLT and MAT of the LMD paper.

Ma et al. 2023 report them (tables 1 to 3 and 5) without a definition that is published with the
code; the definitions here are ours and agree with the one relation that holds in all its tables,
MLT = MIT x MLI.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 20


@dataclass(frozen=True)
class LogRecord:
    """Means over the iterations since the record before: `step` and `images` count from 0."""

    step: int
    images: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class LearningSpeed:
    """Of `iterations` logged iterations, with a record every `resolution` of them.

    `mit`: wall seconds per iteration, whatever happened between the records included. `mli`: mean
    number of iterations between successive strict new minima of the training loss, averaged over
    the last `window` iterations; None where it never fell. `mlt` = mit x mli, seconds. `minima`
    counts those that were successors.
    """

    mit: float
    mli: float | None
    mlt: float | None
    minima: int
    iterations: int
    window: int
    resolution: int


def one_history(records: Sequence[LogRecord]) -> list[LogRecord]:
    """Records in the order they were written, without those that a later one replaces.

    A run that resumes from an earlier step writes that step and all after it again.
    """
    kept: list[LogRecord] = []
    for record in records:
        while kept and kept[-1].step >= record.step:
            kept.pop()
        kept.append(record)
    return kept


def learning_speed(records: Sequence[LogRecord], window: int = WINDOW) -> LearningSpeed | None:
    """None for a log without records.

    The moving average covers the fewest last records that hold at least `window` iterations;
    `LearningSpeed.window` says how many these were at most.
    """
    history = one_history(records)
    if not history:
        return None
    before = [LogRecord(0, 0, math.nan, math.nan), *history[:-1]]
    spans = [now.step - then.step for then, now in zip(before, history, strict=True)]
    seconds = sum(
        (now.images - then.images) / now.images_per_second
        for then, now in zip(before, history, strict=True)
    )
    averages, widest = _moving_average([record.loss for record in history], spans, window)
    minima: list[int] = []
    lowest = math.inf
    for record, average in zip(history, averages, strict=True):
        # NaN, a window not yet full or a loss that was no number, is below nothing.
        if average < lowest:
            lowest = average
            minima.append(record.step)
    mit = seconds / history[-1].step
    mli = (minima[-1] - minima[0]) / (len(minima) - 1) if len(minima) > 1 else None
    return LearningSpeed(
        mit=mit,
        mli=mli,
        mlt=None if mli is None else mit * mli,
        minima=max(0, len(minima) - 1),
        iterations=history[-1].step,
        window=widest,
        resolution=max(spans),
    )


def _moving_average(
    losses: Sequence[float], spans: Sequence[int], window: int
) -> tuple[list[float], int]:
    """An average behind each record, NaN where too little lies before it; the widest window."""
    averages: list[float] = []
    widest = first = 0
    for last in range(len(losses)):
        covered = sum(spans[first : last + 1])
        while covered - spans[first] >= window:
            covered -= spans[first]
            first += 1
        if covered < window:
            averages.append(math.nan)
            continue
        inside = range(first, last + 1)
        # fsum: equal windows have equal averages, whatever the order of their losses.
        averages.append(math.fsum(losses[k] * spans[k] for k in inside) / covered)
        widest = max(widest, covered)
    return averages, widest


def hours_per_point(hours: float, points: float) -> float | None:
    """MAT@k: wall hours per percentage point of top-k accuracy gained; None for no gain."""
    return hours / points if points > 0 else None
