"""Distances between two sets of features, block by block under a bound on memory.

Axes: N, M rows of the two sets; D features; R rows and C columns of one block; K neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# What the blocks may take in all, whatever the sets' sizes.
MEMORY = 512 << 20
# Float64 values of a block's shape that are alive at once: the product, two temporaries of the
# distances, the comparison with the radii or the candidates of the nearest ones.
COPIES = 5
# Squared distances come from norms and products, so they carry rounding of this many units of the
# squared norms; points that close to the rim count as inside, as exact arithmetic has it for
# duplicates (radius 0, distance 0).
SLACK = 1e-12


@dataclass(frozen=True)
class Nearest:
    """The nearest rows of the other set: distances float64 [N,K] ascending, indices int64 [N,K]."""

    distances_NK: Tensor
    indices_NK: Tensor


def block_shape(dimensions: int, memory: int) -> tuple[int, int]:
    """Rows and columns of a block that fits `memory` bytes; at least 16 x 16."""
    # R = C / 4: distances R x C, and both inputs in float64.
    rows = 16
    while _bytes(2 * rows, 8 * rows, dimensions) <= memory and rows < 4096:
        rows *= 2
    return rows, 4 * rows


def squared_distance_blocks(
    x_ND: Tensor, y_MD: Tensor, device: torch.device | None = None, memory: int = MEMORY
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Row slice, column slice, squared distances [R,C] and the size of their rounding [R,C].

    All columns of a row slice come before the next row slice. Float64.
    """
    num_rows, num_columns = block_shape(x_ND.shape[1], memory)
    for top in range(0, len(x_ND), num_rows):
        rows = slice(top, min(top + num_rows, len(x_ND)))
        x_RD = x_ND[rows].to(device, torch.float64)
        x_norms_R = (x_RD**2).sum(1)
        for left in range(0, len(y_MD), num_columns):
            columns = slice(left, min(left + num_columns, len(y_MD)))
            y_CD = y_MD[columns].to(x_RD)
            scale_RC = x_norms_R[:, None] + (y_CD**2).sum(1)[None]
            distance_RC = torch.addmm(scale_RC, x_RD, y_CD.T, alpha=-2)
            slack_RC = scale_RC.mul_(SLACK)
            # Duplicates lie at 0, not at the rounding of their norms.
            yield rows, columns, distance_RC.masked_fill_(distance_RC <= slack_RC, 0), slack_RC


def squared_radii(
    rows_ND: Tensor, k: int, device: torch.device | None = None, memory: int = MEMORY
) -> Tensor:
    """Squared distance [N] from each row to its k-th nearest other row."""
    found = nearest(rows_ND, rows_ND, k, device, memory, own=True)
    return found.distances_NK[:, -1] ** 2


def nearest(
    x_ND: Tensor,
    y_MD: Tensor,
    k: int = 1,
    device: torch.device | None = None,
    memory: int = MEMORY,
    own: bool = False,
) -> Nearest:
    """The k nearest rows of `y` for each row of `x`; of equally near ones any.

    With `own` both are the same set and no row is its own neighbour.
    """
    if len(y_MD) < k + own:
        raise ValueError(f"{k} neighbours need {k + own} rows, got {len(y_MD)}")
    distances_NK = torch.full((len(x_ND), k), torch.inf, dtype=torch.float64, device=device)
    indices_NK = torch.zeros(len(x_ND), k, dtype=torch.int64, device=device)
    for rows, columns, distance_RC, _ in squared_distance_blocks(x_ND, y_MD, device, memory):
        if own:
            # The diagonal of the full matrix, where it passes through this block.
            first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
            here = torch.arange(first, max(first, last), device=device)
            distance_RC[here - rows.start, here - columns.start] = torch.inf
        best = distance_RC.topk(min(k, distance_RC.shape[1]), dim=1, largest=False)
        both_RK = torch.cat([distances_NK[rows], best.values], 1)
        places_RK = torch.cat([indices_NK[rows], best.indices + columns.start], 1)
        order_RK = both_RK.argsort(dim=1, stable=True)[:, :k]
        distances_NK[rows] = both_RK.gather(1, order_RK)
        indices_NK[rows] = places_RK.gather(1, order_RK)
    return Nearest(distances_NK.sqrt().cpu(), indices_NK.cpu())


def _bytes(rows: int, columns: int, dimensions: int) -> int:
    return 8 * (COPIES * rows * columns + (rows + columns) * dimensions)
