"""Improved precision and recall: which images lie within the other set's k-NN balls."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Blocks of the distance matrix: 1,024 x 8,192 float64 values are 64 MB.
ROWS, COLUMNS = 1024, 8192
# Squared distances come from norms and products, so they carry rounding of this many units of the
# squared norms; points that close to the rim count as inside, as exact arithmetic has it for
# duplicates (radius 0, distance 0).
SLACK = 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of samples near the reference, and of reference images near a sample."""

    precision: float
    recall: float


def precision_recall(
    samples_ND: Tensor, reference_MD: Tensor, k: int = 3, device: torch.device | None = None
) -> PrecisionRecall:
    """Kynkaanniemi et al. 2019, eq. 1-3: balls reach to the k-th nearest neighbour in their set.

    Float64 arithmetic in blocks; every set needs more than `k` rows.
    """
    if min(len(samples_ND), len(reference_MD)) <= k:
        raise ValueError(f"k = {k} needs at least {k + 1} rows a side")
    return PrecisionRecall(
        precision=_share_inside(samples_ND, reference_MD, k, device),
        recall=_share_inside(reference_MD, samples_ND, k, device),
    )


def _share_inside(
    points_ND: Tensor, centres_MD: Tensor, k: int, device: torch.device | None
) -> float:
    """Share of points that lie in the ball of at least one centre."""
    radii_M = squared_radii(centres_MD, k, device)
    inside = 0
    for points_RD in points_ND.split(ROWS):
        rows_RD = points_RD.to(device, torch.float64)
        found_R = torch.zeros(len(rows_RD), dtype=torch.bool, device=rows_RD.device)
        for centres_CD, radii_C in zip(
            centres_MD.split(COLUMNS), radii_M.split(COLUMNS), strict=True
        ):
            distance_RC, scale_RC = _squared_distances(rows_RD, centres_CD.to(rows_RD))
            rim_RC = radii_C.to(rows_RD)[None] + SLACK * scale_RC
            found_R |= (distance_RC <= rim_RC).any(1)
        inside += int(found_R.sum().item())
    return inside / len(points_ND)


def squared_radii(rows_ND: Tensor, k: int, device: torch.device | None = None) -> Tensor:
    """Squared distance [N] from each row to its k-th nearest other row."""
    radii = []
    for rows_RD in rows_ND.split(ROWS):
        here_RD = rows_RD.to(device, torch.float64)
        nearest_RK = here_RD.new_full((len(here_RD), 0), torch.inf)
        for columns_CD in rows_ND.split(COLUMNS):
            distance_RC, _ = _squared_distances(here_RD, columns_CD.to(here_RD))
            both = torch.cat([nearest_RK, distance_RC], dim=1)
            nearest_RK = both.topk(min(k + 1, both.shape[1]), dim=1, largest=False).values
        # The nearest of all is the row itself.
        radii.append(nearest_RK.amax(1).cpu())
    return torch.cat(radii)


def _squared_distances(x_RD: Tensor, y_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances, and the squared norms that set the size of their rounding."""
    scale_RC = (x_RD**2).sum(1)[:, None] + (y_CD**2).sum(1)[None]
    return (scale_RC - 2 * x_RD @ y_CD.T).clamp(min=0), scale_RC
