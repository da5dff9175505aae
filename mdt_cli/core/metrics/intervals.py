"""How far a score may be trusted, and when two of them are the same."""

import math
from dataclasses import dataclass

# Both tails of a normal distribution beyond this hold 5 %.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """A value and the standard error that drawing other images would give; None: not known."""

    value: float
    standard_error: float | None = None


def interval(score: Score) -> tuple[float, float] | None:
    """The 95 % interval around a value, normal errors assumed."""
    if score.standard_error is None:
        return None
    half = Z95 * score.standard_error
    return score.value - half, score.value + half


def is_tie(a: Score, b: Score) -> bool:
    """Whether the difference of two independent scores lies within its 95 % interval.

    Without errors only equal values tie.
    """
    error = math.hypot(a.standard_error or 0.0, b.standard_error or 0.0)
    return abs(a.value - b.value) <= Z95 * error


def share_error(share: float, count: int) -> float:
    """Standard error of a share of `count` images, each in or out by itself (binomial)."""
    return math.sqrt(share * (1 - share) / count)
