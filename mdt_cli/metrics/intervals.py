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


def confidence_interval(score: Score) -> tuple[float, float] | None:
    """The 95 % interval around a value, normal errors assumed."""
    if score.standard_error is None:
        return None
    half = Z95 * score.standard_error
    return score.value - half, score.value + half


def is_tie(a: Score, b: Score) -> bool:
    """Whether the difference of two scores with independent errors lies within its 95 % interval.

    Of scores against one reference the errors are those of the samples alone: what drawing another
    reference would change, it changes in both. Without errors only equal values tie.
    """
    error = math.hypot(a.standard_error or 0.0, b.standard_error or 0.0)
    return abs(a.value - b.value) <= Z95 * error


def share_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` images, each in or out by itself (Wilson 1927).

    It has a width at the shares 0 and 1 too, where the binomial variance is 0.
    """
    middle = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 * share_error(share, count)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def share_error(share: float, count: int) -> float:
    """Half the width of `share_interval`, in standard errors: never 0."""
    spread = share * (1 - share) / count + (Z95 / (2 * count)) ** 2
    return math.sqrt(spread) / (1 + Z95**2 / count)
