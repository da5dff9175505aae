"""Which images lie within the other set's k-NN balls: precision, recall, density, coverage."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.metrics.neighbours import MEMORY, squared_distance_blocks, squared_radii


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of samples near the reference, and of reference images near a sample."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """How crowded the reference's balls are around the samples (about 1 for equal sets, no upper
    bound), and the share of them that hold a sample."""

    density: float
    density_error: float
    coverage: float


def precision_recall(
    samples_ND: Tensor,
    reference_MD: Tensor,
    k: int = 3,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> PrecisionRecall:
    """Kynkaanniemi et al. 2019, eq. 1-3: balls reach to the k-th nearest neighbour in their set.

    Float64 arithmetic in blocks of at most `memory` bytes; every set needs more than `k` rows.
    """
    _check(samples_ND, reference_MD, k)
    of_samples_N = squared_radii(samples_ND, k, device, memory).to(device)
    of_reference_M = squared_radii(reference_MD, k, device, memory).to(device)
    precise_N = torch.zeros(len(samples_ND), dtype=torch.bool, device=device)
    recalled_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
    # One pass over the distances serves both questions.
    for rows, columns, distance_RC, slack_RC in squared_distance_blocks(
        samples_ND, reference_MD, device, memory
    ):
        distance_RC -= slack_RC
        precise_N[rows] |= (distance_RC <= of_reference_M[columns][None]).any(1)
        recalled_M[columns] |= (distance_RC <= of_samples_N[rows][:, None]).any(0)
    return PrecisionRecall(precise_N.double().mean().item(), recalled_M.double().mean().item())


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
    covered_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
    for rows, columns, distance_RC, slack_RC in squared_distance_blocks(
        samples_ND, reference_MD, device, memory
    ):
        inside_RC = distance_RC - slack_RC <= radii_M[columns][None]
        balls_N[rows] += inside_RC.sum(1)
        covered_M[columns] |= inside_RC.any(0)
    balls_N /= k
    return DensityCoverage(
        balls_N.mean().item(),
        (balls_N.std(correction=1) / len(balls_N) ** 0.5).item(),
        covered_M.double().mean().item(),
    )


def _check(samples_ND: Tensor, reference_MD: Tensor, k: int) -> None:
    if min(len(samples_ND), len(reference_MD)) <= k:
        raise ValueError(f"k = {k} needs at least {k + 1} rows a side")
