"""A score for each class: which ones a model generates badly, or not at all.

Axes: N samples, M reference images, D features.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mdt_cli.metrics.frechet import FrechetDistance, frechet_with_error
from mdt_cli.metrics.kernel import kernel_distance

Rule = Literal["frechet", "kernel"]
# A covariance from fewer rows than this many times D is more noise than shape.
ROWS_PER_DIMENSION = 2
# Pairs grow with the square of the rows; this many say enough about a class.
MOST_ROWS = 1000


@dataclass(frozen=True)
class ClassScore:
    """`value` is None where a side has fewer than 2 images, `standard_error` below 3."""

    name: str
    samples: int
    reference: int
    value: float | None
    standard_error: float | None


@dataclass(frozen=True)
class ClassScores:
    """Worst first; then the classes without a score. `rule` is the same for all classes."""

    rule: Rule
    scores: tuple[ClassScore, ...]


def class_scores(
    samples_ND: Tensor,
    sample_classes: Sequence[str],
    reference_MD: Tensor,
    reference_classes: Sequence[str],
    device: torch.device | None = None,
) -> ClassScores:
    """Samples of each class against the reference images of the same class.

    The Fréchet distance where every class has twice as many rows as features on both sides, else
    the unbiased kernel distance, which few rows make noisy but not larger.
    """
    ours, theirs = _rows(sample_classes), _rows(reference_classes)
    names = sorted(ours.keys() | theirs.keys())
    enough = ROWS_PER_DIMENSION * samples_ND.shape[1]
    counts = [len(side[name]) for name in names for side in (ours, theirs)]
    rule: Rule = "frechet" if min(counts) >= enough else "kernel"
    scores = []
    for name in names:
        x_ND, y_MD = samples_ND[ours[name]], reference_MD[theirs[name]]
        value, error = None, None
        if min(len(x_ND), len(y_MD)) >= 2:
            found = (
                _frechet(x_ND, y_MD)
                if rule == "frechet"
                else kernel_distance(x_ND[:MOST_ROWS], y_MD[:MOST_ROWS], device)
            )
            value, error = found.value, found.standard_error
        scores.append(ClassScore(name, len(x_ND), len(y_MD), value, error))
    scores.sort(key=lambda score: (score.value is None, -(score.value or 0.0), score.name))
    return ClassScores(rule, tuple(scores))


def _rows(classes: Sequence[str]) -> defaultdict[str, list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(classes):
        rows[name].append(row)
    return rows


def _frechet(x_ND: Tensor, y_MD: Tensor) -> FrechetDistance:
    x_ND, y_MD = x_ND.double(), y_MD.double()
    return frechet_with_error(x_ND, x_ND.mean(0), x_ND.T.cov(), y_MD.mean(0), y_MD.T.cov())


def matched(
    samples: Sequence[str] | None, reference: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[str]] | None:
    """Both sets' classes in the same words, or None where they cannot be matched.

    Class numbers on one side stand for the sorted names of the other.
    """
    if samples is None or reference is None:
        return None
    ours, theirs = set(samples), set(reference)
    if ours <= theirs:
        return samples, reference
    if _numbers(ours) and not _numbers(theirs):
        named = _named(samples, theirs)
        return None if named is None else (named, reference)
    if _numbers(theirs) and not _numbers(ours):
        named = _named(reference, ours)
        return None if named is None else (samples, named)
    return (samples, reference) if ours & theirs else None


def _numbers(classes: set[str]) -> bool:
    return all(name.isdigit() for name in classes)


def _named(numbers: Sequence[str], classes: set[str]) -> list[str] | None:
    names = sorted(classes)
    if max(int(number) for number in numbers) >= len(names):
        return None
    return [names[int(number)] for number in numbers]
