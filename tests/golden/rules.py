"""Rules of the official code (defaults, orders, schedules) beside ours, in numbers.

Official numbers were printed by the official code. `benchmarks/fidelity.py` writes the table,
`tests/golden/test_rules.py` compares. A module of rules offers `RULES`; `TABLES` lists them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`ours` computes what `official` printed; `before` is what version 0.1 had, for the table.

    `within`: the largest difference, relative to the official number. Statistics of random starts
    differ with the seed, so theirs is a few per cent.
    """

    recipe: str
    rule: str
    before: str
    official: tuple[float, ...]
    ours: Callable[[], Sequence[float]]
    within: float = 1e-5


def worst(rule: Rule, found: Sequence[float]) -> float:
    """The largest difference, relative to the official number; of zeros, absolute."""
    pairs = zip(found, rule.official, strict=True)
    return max(abs(a - b) / (abs(b) or 1.0) for a, b in pairs)
