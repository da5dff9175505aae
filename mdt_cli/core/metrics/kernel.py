"""Kernel distance (KID): the unbiased MMD with a cubic kernel over all pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A block of the kernel matrix: 1,024 x 8,192 float64 values are 64 MB.
ROWS, COLUMNS = 1024, 8192


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased estimate (it may fall below 0) and its jackknife standard error."""

    value: float
    standard_error: float | None  # None below 3 images a side


def kernel_distance(
    x_ND: Tensor, y_MD: Tensor, device: torch.device | None = None
) -> KernelDistance:
    """Squared MMD with k(x, y) = (x.y / D + 1)^3 (Binkowski et al. 2018, section 4).

    Every pair enters once, so neither a random subset nor the order of rows moves the value: it is
    the mean over all possible subsets. Float64; memory is one block of rows of the kernel.
    """
    n, m = len(x_ND), len(y_MD)
    if n < 2 or m < 2:
        raise ValueError(f"the unbiased estimate needs 2 rows a side, got {n} and {m}")
    own_x_N, own_y_M = _own_sums(x_ND, device), _own_sums(y_MD, device)
    cross_N, cross_M = _sums(x_ND, y_MD, device)
    xx, yy, xy = own_x_N.sum(), own_y_M.sum(), cross_N.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    if n < 3 or m < 3:
        return KernelDistance(value.item(), None)
    # The estimate without row i, for each i, in closed form from the row sums.
    without_x_N = (
        (xx - 2 * own_x_N) / ((n - 1) * (n - 2))
        + yy / (m * (m - 1))
        - 2 * (xy - cross_N) / ((n - 1) * m)
    )
    without_y_M = (
        xx / (n * (n - 1))
        + (yy - 2 * own_y_M) / ((m - 1) * (m - 2))
        - 2 * (xy - cross_M) / (n * (m - 1))
    )
    # Efron & Stein 1981: jackknife variance, one term for each sample.
    variance = without_x_N.var(correction=0) * (n - 1) + without_y_M.var(correction=0) * (m - 1)
    return KernelDistance(value.item(), variance.sqrt().item())


def _own_sums(x_ND: Tensor, device: torch.device | None) -> Tensor:
    """Sum [N] over all other rows of the kernel with each row."""
    rows_N, _ = _sums(x_ND, x_ND, device)
    squares_N = torch.cat([(part.double() ** 2).sum(1) for part in x_ND.split(COLUMNS)])
    return rows_N - (squares_N / x_ND.shape[1] + 1) ** 3


def _sums(x_ND: Tensor, y_MD: Tensor, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Row sums [N] and column sums [M] of the kernel between both samples."""
    rows, columns_M = [], torch.zeros(len(y_MD), dtype=torch.float64)
    for part in x_ND.split(ROWS):
        x_RD = part.to(device, torch.float64)
        total_R = x_RD.new_zeros(len(x_RD))
        for start in range(0, len(y_MD), COLUMNS):
            y_CD = y_MD[start : start + COLUMNS].to(x_RD)
            kernel_RC = (x_RD @ y_CD.T / x_RD.shape[1] + 1) ** 3
            total_R += kernel_RC.sum(1)
            columns_M[start : start + COLUMNS] += kernel_RC.sum(0).cpu()
        rows.append(total_R.cpu())
    return torch.cat(rows), columns_M
