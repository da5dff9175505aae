"""Kernel distances: KID (a cubic kernel on any features) and CMMD (a Gaussian one on CLIP's).

Axes: N, M rows of the two sets; D features; R rows and C columns of one block of the kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.metrics.features import Entry, Features, entry, present

# A block of the kernel matrix: 1,024 x 8,192 float64 values are 64 MB.
ROWS, COLUMNS = 1024, 8192
SQUARE = 2048
# Binkowski et al. 2018 and the tables after them average over subsets of this many.
BLOCK = 1000
# Jayasumana et al. 2024, section 4: bandwidth of the kernel, and a factor that makes it readable.
BANDWIDTH, SCALE = 10.0, 1000.0
# [R,D], [C,D] -> [R,C]
Kernel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased estimate (it may fall below 0) and its jackknife standard errors.

    The first is over both sets, the other over the samples with the reference held fixed; None
    below 3 images a side.
    """

    value: float
    standard_error: float | None
    samples_error: float | None


@dataclass(frozen=True)
class BlockDistance:
    """Mean of unbiased estimates over disjoint blocks, and the standard error of that mean."""

    value: float
    standard_error: float | None  # None for one block
    blocks: int
    size: int


def cubic(x_RD: Tensor, y_CD: Tensor) -> Tensor:
    """(x.y / D + 1)^3 (Binkowski et al. 2018, section 4)."""
    return (x_RD @ y_CD.T / x_RD.shape[1] + 1) ** 3


def gaussian(x_RD: Tensor, y_CD: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 s^2)) with s = 10 (Jayasumana et al. 2024)."""
    squares_RC = (x_RD**2).sum(1)[:, None] + (y_CD**2).sum(1)[None] - 2 * x_RD @ y_CD.T
    return (squares_RC.clamp(min=0) / (-2 * BANDWIDTH**2)).exp()


def kernel_distance(
    x_ND: Tensor, y_MD: Tensor, device: torch.device | None = None
) -> KernelDistance:
    """KID: squared MMD with the cubic kernel over all pairs.

    Every pair enters once, so neither a random subset nor the order of rows moves the value: it is
    the mean over all possible subsets. Float64; memory is one block of rows of the kernel.
    """
    return _distance(x_ND, y_MD, cubic, device)[0]


def block_kernel_distance(
    x_ND: Tensor, y_MD: Tensor, size: int = BLOCK, device: torch.device | None = None
) -> BlockDistance:
    """KID as tables give it: the mean over pairs of blocks, block i of one set with i of the other.

    Its expectation is `kernel_distance`, its cost is a fraction of it, and its error is larger.
    Rows should come in random order. A last incomplete block is left out; sets smaller than `size`
    make one block.
    """
    size = min(size, len(x_ND), len(y_MD))
    count = min(len(x_ND), len(y_MD)) // size
    values = torch.tensor(
        [
            _distance(x_ND[i * size :][:size], y_MD[i * size :][:size], cubic, device)[0].value
            for i in range(count)
        ],
        dtype=torch.float64,
    )
    error = (values.std(correction=1) / count**0.5).item() if count > 1 else None
    return BlockDistance(values.mean().item(), error, count, size)


def clip_distance(x_ND: Tensor, y_MD: Tensor, device: torch.device | None = None) -> KernelDistance:
    """CMMD of CLIP embeddings of length 1: 1,000 times the squared MMD with the Gaussian kernel.

    The published code takes the biased estimate, each row paired with itself as well (Gretton et
    al. 2012, eq. 5), so this does; it is never negative.
    """
    unbiased, biased = _distance(x_ND, y_MD, gaussian, device)
    errors = (unbiased.standard_error, unbiased.samples_error)
    return KernelDistance(
        SCALE * biased, *(None if error is None else SCALE * error for error in errors)
    )


def _distance(
    x_ND: Tensor, y_MD: Tensor, kernel: Kernel, device: torch.device | None
) -> tuple[KernelDistance, float]:
    """The unbiased estimate with its error, and the biased one."""
    n, m = len(x_ND), len(y_MD)
    if n < 2 or m < 2:
        raise ValueError(f"the unbiased estimate needs 2 rows a side, got {n} and {m}")
    (own_x_N, itself_x), (own_y_M, itself_y) = (
        _own_sums(rows, kernel, device) for rows in (x_ND, y_MD)
    )
    cross_N, cross_M = _sums(x_ND, y_MD, kernel, device)
    xx, yy, xy = own_x_N.sum(), own_y_M.sum(), cross_N.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    biased = ((xx + itself_x) / n**2 + (yy + itself_y) / m**2 - 2 * xy / (n * m)).item()
    if n < 3 or m < 3:
        return KernelDistance(value.item(), None, None), biased
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
    of_x = without_x_N.var(correction=0) * (n - 1)
    of_y = without_y_M.var(correction=0) * (m - 1)
    return KernelDistance(value.item(), (of_x + of_y).sqrt().item(), of_x.sqrt().item()), biased


def _own_sums(x_ND: Tensor, kernel: Kernel, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Sum [N] over all other rows of the kernel with each row, and the sum of its diagonal.

    The kernel is symmetric: a block above the diagonal serves for the one below as well.
    """
    rows_N, itself = torch.zeros(len(x_ND), dtype=torch.float64), 0.0
    for top in range(0, len(x_ND), SQUARE):
        x_RD = x_ND[top : top + SQUARE].to(device, torch.float64)
        for left in range(top, len(x_ND), SQUARE):
            y_CD = x_RD if left == top else x_ND[left : left + SQUARE].to(x_RD)
            kernel_RC = kernel(x_RD, y_CD)
            if left == top:
                itself += kernel_RC.diagonal().sum().item()
                kernel_RC.fill_diagonal_(0)
            else:
                rows_N[left : left + SQUARE] += kernel_RC.sum(0).cpu()
            rows_N[top : top + SQUARE] += kernel_RC.sum(1).cpu()
    return rows_N, torch.tensor(itself, dtype=torch.float64)


def _sums(
    x_ND: Tensor, y_MD: Tensor, kernel: Kernel, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """Row sums [N] and column sums [M] of the kernel between both samples."""
    rows, columns_M = [], torch.zeros(len(y_MD), dtype=torch.float64)
    for part in x_ND.split(ROWS):
        x_RD = part.to(device, torch.float64)
        total_R = x_RD.new_zeros(len(x_RD))
        for start in range(0, len(y_MD), COLUMNS):
            y_CD = y_MD[start : start + COLUMNS].to(x_RD)
            kernel_RC = kernel(x_RD, y_CD)
            total_R += kernel_RC.sum(1)
            columns_M[start : start + COLUMNS] += kernel_RC.sum(0).cpu()
        rows.append(total_R.cpu())
    return torch.cat(rows), columns_M


def cubic_kernel(features: Features) -> dict[str, Entry]:
    """`kid`: over all pairs and, for comparison with published tables, over blocks."""
    samples_ND, reference_MD = _both(features)
    found = kernel_distance(samples_ND, reference_MD, features.device)
    blocks = block_kernel_distance(samples_ND, reference_MD, device=features.device)
    n, m = len(samples_ND), len(reference_MD)
    return {
        "kid": {
            **entry(found.value, found.standard_error, "jackknife over both sets", n, m),
            "standard_error_of_samples": found.samples_error,
            "rule": "unbiased, cubic kernel, all pairs",
            "blocks": {
                "value": blocks.value,
                "standard_error": blocks.standard_error,
                "count": blocks.blocks,
                "size": blocks.size,
                "rule": "mean of unbiased estimates over disjoint blocks, as published tables",
            },
        }
    }


def clip_kernel(features: Features) -> dict[str, Entry]:
    """`cmmd`, on embeddings of length 1."""
    samples_ND, reference_MD = _both(features)
    found = clip_distance(samples_ND, reference_MD, features.device)
    n, m = len(samples_ND), len(reference_MD)
    return {
        "cmmd": {
            **entry(found.value, found.standard_error, "jackknife over both sets", n, m),
            "standard_error_of_samples": found.samples_error,
            "rule": "1,000 times the biased squared MMD, Gaussian kernel of width 10 "
            "(Jayasumana et al. 2024)",
        }
    }


def _both(features: Features) -> tuple[Tensor, Tensor]:
    most = features.limits.kernel
    return (
        present(features.samples.rows_ND, "features of the samples")[:most],
        present(features.reference.rows_ND, "features of the reference")[:most],
    )
