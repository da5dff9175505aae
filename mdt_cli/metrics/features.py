"""What metrics are computed from, and the entry that each of them puts into a report.

Axes: N samples, M reference images, D pooled and S spatial features, C classes.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.intervals import Score, confidence_interval, share_error, share_interval
from mdt_cli.metrics.neighbours import MEMORY
from mdt_cli.metrics.statistics import Statistics

# A metric in a report: value, standard_error, interval and interval_rule, the counts `samples` and
# `reference`, and whatever else the metric says.
Entry = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features and, where all of them were kept, the rows behind them.

    Only with rows does a distance have an error.
    """

    statistics: Statistics
    rows_ND: Tensor | None = None


@dataclass(frozen=True)
class Side:
    """Features of one set, as far as they were extracted and kept."""

    pooled: Gaussian | None
    # float32 [N,D] or the leading part of them, in an order without meaning.
    rows_ND: Tensor | None = None
    # SHA-256 of each image's pixels: row i is of the image digests[i]. More images than rows where
    # only a part of the rows was kept.
    digests: tuple[bytes, ...] = ()
    spatial: Gaussian | None = None


@dataclass(frozen=True)
class Limits:
    """How many rows of a set metrics take at most; None: all."""

    neighbours: int | None
    kernel: int | None


# Dhariwal & Nichol 2021 and its followers hold 10,000 reference images for precision and recall;
# Naeem et al. 2020 take as many on both sides for density and coverage. Kernel distances and
# memorisation look at all pairs, which grow with the square: 50,000 rows are a published set.
PUBLISHED = Limits(neighbours=10_000, kernel=50_000)
ALL_ROWS = Limits(neighbours=None, kernel=None)


@dataclass(frozen=True)
class Features:
    """Both sides of one comparison; `memory` bounds blocks of distances, in bytes."""

    samples: Side
    reference: Side
    head_CD: Tensor | None = None  # the extractor's class layer
    bias_C: Tensor | None = None
    device: torch.device | None = None  # where distances are computed; None: where the rows are
    memory: int = MEMORY
    limits: Limits = PUBLISHED


def side_of(extracted: Extracted | None) -> Side:
    """One set's side; without anything where it was not extracted."""
    if extracted is None:
        return Side(None)
    spatial = None
    if extracted.spatial is not None:
        spatial = Gaussian(extracted.spatial, extracted.spatial_NS)
    rows_ND = extracted.features_ND
    pooled = Gaussian(extracted.statistics, rows_ND if extracted.is_whole else None)
    return Side(pooled, rows_ND, extracted.digests, spatial)


def present(value: T | None, what: str) -> T:
    """What a metric needs; ValueError where it was not extracted or not kept."""
    if value is None:
        raise ValueError(f"no {what}")
    return value


def entry(
    value: float, error: float | None, error_rule: str | None, samples: int, reference: int | None
) -> Entry:
    """A value with its 95 % interval; `error_rule` says what the standard error covers."""
    held = confidence_interval(Score(value, error))
    return {
        "value": value,
        "standard_error": error,
        "interval": list(held) if held is not None else None,
        "interval_rule": f"95 %, {error_rule}" if held is not None else None,
        "samples": samples,
        "reference": reference,
    }


def share_entry(
    share: float, rule: str, counts: tuple[int, int], of: int, samples_error: float | None = None
) -> Entry:
    """A share of `of` images, for `counts` samples and reference images.

    `samples_error` where these are not the samples, but the reference. Then neither error bounds
    the other: the larger one decides comparisons.
    """
    error = share_error(share, of)
    found = entry(share, error, f"Wilson, {rule}", *counts) | {
        "interval": list(share_interval(share, of))
    }
    if samples_error is not None:
        found["standard_error_of_samples"] = max(error, samples_error)
    return found
