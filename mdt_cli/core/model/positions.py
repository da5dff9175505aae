"""Sin-cos position tables and the index of relative offsets."""

import torch
from torch import Tensor


def sincos_table(height: int, width: int, hidden_size: int) -> Tensor:
    """Fixed 2D positions [height * width, hidden_size], float32, computed in float64.

    The first half of the channels encodes the column, the second the row, each as sines then
    cosines: the order of MAE's table (He et al. 2022), which DiT inherits.
    """
    columns = torch.arange(width, dtype=torch.float64).repeat(height)
    rows = torch.arange(height, dtype=torch.float64).repeat_interleave(width)
    return torch.cat(
        [_sincos(columns, hidden_size // 2), _sincos(rows, hidden_size // 2)], 1
    ).float()


def _sincos(position_N: Tensor, size: int) -> Tensor:
    frequency = 10000.0 ** -(torch.arange(size // 2, dtype=torch.float64) / (size / 2))
    angle = position_N[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def num_offsets(height: int, width: int) -> int:
    """Rows of a relative bias table: one per offset, and three that BEiT's class token left over.

    The three are never read; they are kept so that tables of official MDT weights fit as they are.
    """
    return (2 * height - 1) * (2 * width - 1) + 3


def offset_index(height: int, width: int) -> Tensor:
    """int64 [N, N]: the table row for query i and key j, by their offset in rows and columns."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    down = row[:, None] - row[None] + height - 1
    right = column[:, None] - column[None] + width - 1
    return down * (2 * width - 1) + right
