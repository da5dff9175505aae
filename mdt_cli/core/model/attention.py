"""Multi-head self-attention, with what it may know of positions.

Axes: B batch, N tokens of this pass, D channels, H heads, C channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdt_cli.core.model.positions import AttentionPositions

QK_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention; `positions` decide whether it learns a bias, or rotates.

    `qk_norm`: RMSNorm with a learned scale over each head's channels of queries and keys, before
    they are rotated (Henry et al. 2020; Dehghani et al. 2023).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        positions: AttentionPositions,
        qk_norm: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.rotary = num_heads, positions.rotary
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.q_norm = self.k_norm = None
        if qk_norm:
            self.q_norm = nn.RMSNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
            self.k_norm = nn.RMSNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
        self.bias_table: nn.Parameter | None = None
        if positions.num_biases:
            self.bias_table = nn.Parameter(torch.empty(positions.num_biases, num_heads))
            nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x_BND: Tensor, known: Tensor | None) -> Tensor:
        """[B, N, D] to the same shape; `known` is what the positions gave for this pass."""
        batch, num_tokens, hidden_size = x_BND.shape
        q, k, v = (
            self.qkv(x_BND)
            .view(batch, num_tokens, 3, self.num_heads, hidden_size // self.num_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if self.rotary and known is not None:
            q, k = rotated(q, known), rotated(k, known)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(known, q.dtype))
        return self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, hidden_size))

    def _bias(self, offset_index: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """[1 or B, H, N, N] from the row of the table for each query and key."""
        if self.bias_table is None or offset_index is None:
            return None
        # Heads first, so that each head's plane is contiguous for the attention kernel.
        # index_select, since the gradient of plain indexing adds up in any order on a CPU.
        rows = self.bias_table.t().index_select(1, offset_index.flatten())
        bias = rows.view(self.num_heads, *offset_index.shape).to(dtype)
        return bias.unsqueeze(0) if offset_index.dim() == 2 else bias.transpose(0, 1)


def rotated(x_BHNC: Tensor, turns: Tensor) -> Tensor:
    """Each pair of neighbouring channels turned by its token's angle (Su et al. 2021, eq. 34).

    `turns`: a factor for each channel and one for its neighbour, [N, 2, C] or [B, N, 2, C].
    Computed in their dtype, returned in that of `x_BHNC`.
    """
    if turns.dim() == 4:
        turns = turns.unsqueeze(1)
    own, other = turns.unbind(-2)
    neighbours = x_BHNC.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x_BHNC * own, neighbours, other).to(x_BHNC.dtype)
