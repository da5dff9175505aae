"""Positions: sin-cos tables that are added to tokens, and offsets that attention reads.

Axes: B batch, E extra tokens, N all tokens, K kept tokens, D hidden size, C channels of
a head.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mdt_cli.core.masking.tokens import TokenSubset


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


def with_positions(x: Tensor, table_ND: Tensor) -> Tensor:
    """The table added to the last N tokens [B, E+N, D]; extra tokens in front stay as they are."""
    num_extras = x.shape[1] - table_ND.shape[0]
    if not num_extras:
        return x + table_ND
    return torch.cat([x[:, :num_extras], x[:, num_extras:] + table_ND], dim=1)


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


class AttentionPositions(nn.Module, ABC):
    """What the attention of one stack of blocks knows of positions."""

    # Rows of the bias table of each block; 0: there is no table.
    num_biases: int = 0
    # Queries and keys are rotated.
    rotary: bool = False

    @abstractmethod
    def for_pass(self, subset: TokenSubset | None, num_extras: int) -> Tensor | None:
        """What every block's attention gets, for all tokens (`subset` None) or the kept ones.

        `num_extras` tokens in front of them have no position. None: nothing is known.
        """


class NoPositions(AttentionPositions):
    """Attention knows no positions: tokens carry them."""

    def for_pass(self, subset: TokenSubset | None, num_extras: int) -> None:
        """Nothing, whatever the tokens."""
        return


class RelativeOffsets(AttentionPositions):
    """The row of a block's bias table for each query and key, by their offset on the grid."""

    offset_index_NN: Tensor

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.num_biases = num_offsets(*grid)
        self.register_buffer("offset_index_NN", offset_index(*grid), persistent=False)

    def for_pass(self, subset: TokenSubset | None, num_extras: int) -> Tensor:
        """int64 [N, N], or [B, K, K] of the kept tokens. ValueError with extra tokens."""
        if num_extras:
            raise ValueError(f"{num_extras} extra tokens have no offset from the patches")
        if subset is None:
            return self.offset_index_NN
        kept = subset.kept_BK
        return self.offset_index_NN[kept.unsqueeze(2), kept.unsqueeze(1)]


class Rotary(AttentionPositions):
    """2-D rotary positions (Su et al. 2021; axial as in Heo et al. 2024, with base 10000).

    The first half of a head's channels turns by the row, the second by the column, in pairs of
    neighbours. The head size is a multiple of 4. Extra tokens in front are not turned.
    """

    rotary = True
    turns_N2C: Tensor

    def __init__(self, grid: tuple[int, int], head_size: int) -> None:
        super().__init__()
        self.register_buffer("turns_N2C", rotary_turns(*grid, head_size), persistent=False)

    def for_pass(self, subset: TokenSubset | None, num_extras: int) -> Tensor:
        """float32 [E+N, 2, C], or [B, E+K, 2, C] of the kept tokens; see `rotary_turns`."""
        turns = self.turns_N2C if subset is None else self.turns_N2C[subset.kept_BK]
        if not num_extras:
            return turns
        still = turns.new_zeros(*turns.shape[:-3], num_extras, *turns.shape[-2:])
        still[..., 0, :] = 1
        return torch.cat([still, turns], dim=-3)


def rotary_turns(height: int, width: int, head_size: int) -> Tensor:
    """float32 [height * width, 2, head_size]: factors of each channel and of its neighbour.

    A pair (a, b) becomes (a cos - b sin, b cos + a sin): cosines, then sines with their signs. Pair
    i of each half turns by position / 10000^(4 i / head_size), computed in float64.
    """
    pairs = head_size // 4
    frequency = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    row = torch.arange(height, dtype=torch.float64).repeat_interleave(width)
    column = torch.arange(width, dtype=torch.float64).repeat(height)
    angle = torch.cat([row[:, None] * frequency, column[:, None] * frequency], dim=1)
    cos, sin = angle.cos(), angle.sin()
    own, other = torch.stack([cos, cos], dim=-1), torch.stack([-sin, sin], dim=-1)
    return torch.stack([own.flatten(1), other.flatten(1)], dim=1).float()
