"""Which images lie within the other set's k-NN balls: precision, recall, density, coverage."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.metrics.features import Entry, Features, entry, present, share_entry
from mdt_cli.metrics.neighbours import MEMORY, squared_distance_blocks, squared_radii

# What the errors of these metrics cover.
FIXED = "balls held fixed"
OVER_REFERENCE = f"over the reference images, {FIXED}"


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of samples near the reference, and of reference images near a sample.

    `recall_error` is the spread of recall over other samples, as `_Cover` has it.
    """

    precision: float
    recall: float
    recall_error: float


@dataclass(frozen=True)
class DensityCoverage:
    """How crowded the reference's balls are around the samples (about 1 for equal sets, no upper
    bound), and the share of them that hold a sample; errors over other samples."""

    density: float
    density_error: float
    coverage: float
    coverage_error: float


def precision_recall(
    samples_ND: Tensor,
    reference_MD: Tensor,
    k: int = 3,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> PrecisionRecall:
    """Kynkaanniemi et al. 2019, eq. 1-3: balls reach to the k-th nearest neighbour in their set.

    Float64, in blocks of at most `memory` bytes; a row within rounding of a ball's edge is inside.
    ValueError where a set has `k` rows or fewer.
    """
    _check(samples_ND, reference_MD, k)
    of_samples_N = squared_radii(samples_ND, k, device, memory).to(device)
    of_reference_M = squared_radii(reference_MD, k, device, memory).to(device)
    precise_N = torch.zeros(len(samples_ND), dtype=torch.bool, device=device)
    cover = _Cover(len(samples_ND), len(reference_MD), device)
    # One pass over the distances serves both questions.
    for rows, columns, distance_RC, slack_RC in squared_distance_blocks(
        samples_ND, reference_MD, device, memory
    ):
        distance_RC -= slack_RC
        precise_N[rows] |= (distance_RC <= of_reference_M[columns][None]).any(1)
        cover.add(rows, columns, distance_RC <= of_samples_N[rows][:, None])
    return PrecisionRecall(precise_N.double().mean().item(), *cover.share_and_error())


def density_coverage(
    samples_ND: Tensor,
    reference_MD: Tensor,
    k: int = 5,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> DensityCoverage:
    """Naeem et al. 2020, eq. 2 and 3; only the reference's balls count, so outliers matter less.

    A ball holds its rim, so that duplicates lie in their balls of radius 0.
    """
    _check(samples_ND, reference_MD, k)
    radii_M = squared_radii(reference_MD, k, device, memory).to(device)
    balls_N = torch.zeros(len(samples_ND), dtype=torch.float64, device=device)
    cover = _Cover(len(samples_ND), len(reference_MD), device)
    for rows, columns, distance_RC, slack_RC in squared_distance_blocks(
        samples_ND, reference_MD, device, memory
    ):
        inside_RC = distance_RC - slack_RC <= radii_M[columns][None]
        balls_N[rows] += inside_RC.sum(1)
        cover.add(rows, columns, inside_RC)
    balls_N /= k
    return DensityCoverage(
        balls_N.mean().item(),
        (balls_N.std(correction=1) / len(balls_N) ** 0.5).item(),
        *cover.share_and_error(),
    )


class _Cover:
    """Which reference images have a sample at all, and which hang on a single one."""

    def __init__(self, num_samples: int, num_reference: int, device: torch.device | None) -> None:
        self._num_samples = num_samples
        self._count_M = torch.zeros(num_reference, dtype=torch.int64, device=device)
        self._any_M = torch.zeros_like(self._count_M)

    def add(self, rows: slice, columns: slice, inside_RC: Tensor) -> None:
        self._count_M[columns] += inside_RC.sum(0)
        found_C = inside_RC.byte().argmax(0)
        self._any_M[columns] = torch.where(
            inside_RC.any(0), found_C + rows.start, self._any_M[columns]
        )

    def share_and_error(self) -> tuple[float, float]:
        """The covered share of the reference, and its jackknife error over the samples.

        Without sample i the share falls by the images that i alone covers, balls held fixed.
        """
        lone_L = self._any_M[self._count_M == 1].unique(return_counts=True)[1]
        n, total, squares = self._num_samples, int(lone_L.sum()), int((lone_L**2).sum())
        variance = (squares / n - (total / n) ** 2) * (n - 1)
        share = (self._count_M > 0).double().mean().item()
        return share, math.sqrt(max(variance, 0.0)) / len(self._count_M)


def _check(samples_ND: Tensor, reference_MD: Tensor, k: int) -> None:
    if min(len(samples_ND), len(reference_MD)) <= k:
        raise ValueError(f"k = {k} needs at least {k + 1} rows a side")


def manifolds(features: Features, k: int) -> dict[str, Entry]:
    """`precision` and `recall`, by balls to the k-th neighbour."""
    samples_ND = present(features.samples.rows_ND, "features of the samples")
    reference_MD = present(features.reference.rows_ND, "features of the reference")
    reference_MD = reference_MD[: features.limits.neighbours]
    found = precision_recall(samples_ND, reference_MD, k, features.device, features.memory)
    n, m = len(samples_ND), len(reference_MD)
    recall = share_entry(found.recall, OVER_REFERENCE, (n, m), m, found.recall_error)
    return {
        "precision": {**share_entry(found.precision, FIXED, (n, m), n), "k": k},
        "recall": {**recall, "k": k},
    }


def balls(features: Features, k: int) -> dict[str, Entry]:
    """`density` and `coverage`, by the reference's balls to the k-th neighbour."""
    most = features.limits.neighbours
    samples_ND = present(features.samples.rows_ND, "features of the samples")[:most]
    reference_MD = present(features.reference.rows_ND, "features of the reference")[:most]
    found = density_coverage(samples_ND, reference_MD, k, features.device, features.memory)
    n, m = len(samples_ND), len(reference_MD)
    return {
        "density": {**entry(found.density, found.density_error, FIXED, n, m), "k": k},
        "coverage": {
            **share_entry(found.coverage, OVER_REFERENCE, (n, m), m, found.coverage_error),
            "k": k,
            "note": "rises with the number of samples: compare only with equal counts",
        },
    }
