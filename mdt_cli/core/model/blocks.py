"""Attention, MLP, the adaLN-Zero block (Peebles & Xie 2023) and the plain block of ViT.

Axes: B batch, N tokens of this pass, D channels, H heads, L blocks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def normalise(x_BND: Tensor) -> Tensor:
    """LayerNorm over channels without affine parameters, eps 1e-6."""
    return F.layer_norm(x_BND, x_BND.shape[-1:], eps=NORM_EPS)


def modulate(x_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """shift + (1 + scale) x, the same for all tokens."""
    return torch.addcmul(shift_B1D, x_BND, 1 + scale_B1D)


class Modulation(nn.Module):
    """All shifts, scales and gates of a stack of blocks from one matrix product.

    A block's six chunks are shift, scale and gate of the attention, then of the MLP; a head's two
    are shift and scale.
    """

    def __init__(self, condition_size: int, hidden_size: int, depth: int, num_chunks: int) -> None:
        super().__init__()
        self.depth, self.num_chunks = depth, num_chunks
        self.linear = nn.Linear(condition_size, depth * num_chunks * hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c_BD: Tensor) -> list[tuple[Tensor, ...]]:
        """Per block, `num_chunks` tensors [B, 1, D]."""
        flat = self.linear(F.silu(c_BD))
        chunks = flat.view(c_BD.shape[0], self.depth * self.num_chunks, 1, -1).unbind(1)
        return [
            chunks[block * self.num_chunks : (block + 1) * self.num_chunks]
            for block in range(self.depth)
        ]


class Attention(nn.Module):
    """Multi-head self-attention with an optional relative position bias."""

    def __init__(
        self, hidden_size: int, num_heads: int, num_biases: int, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.bias_table: nn.Parameter | None = None
        if num_biases:
            self.bias_table = nn.Parameter(torch.empty(num_biases, num_heads))
            nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x_BND: Tensor, offset_index: Tensor | None) -> Tensor:
        """`offset_index` [N, N] or [B, N, N]: the row of the bias table for each query and key."""
        batch, num_tokens, hidden_size = x_BND.shape
        q, k, v = (
            self.qkv(x_BND)
            .view(batch, num_tokens, 3, self.num_heads, hidden_size // self.num_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        bias = None
        if self.bias_table is not None and offset_index is not None:
            # Heads first, so that each head's plane is contiguous for the attention kernel.
            # index_select, since the gradient of plain indexing adds up in any order on a CPU.
            rows = self.bias_table.t().index_select(1, offset_index.flatten())
            bias = rows.view(self.num_heads, *offset_index.shape).to(q.dtype)
            bias = bias.unsqueeze(0) if offset_index.dim() == 2 else bias.transpose(0, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, hidden_size))


class Mlp(nn.Module):
    """Linear, GELU, Linear. `gelu`: "tanh" for the approximation, "none" for the exact one."""

    def __init__(self, hidden_size: int, inner_size: int, gelu: str = "tanh") -> None:
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        """[B, N, D] to the same shape."""
        return self.fc2(F.gelu(self.fc1(x_BND), approximate=self.gelu))


class BlockContext(NamedTuple):
    """What a block gets beside its tokens.

    modulation: shift, scale and gate of the attention, then of the MLP, [B, 1, D] each; None in
    plain blocks. positions: what the positions of its stack give to the attention. skip_BND: the
    tokens that a block with a skip fuses.
    """

    modulation: tuple[Tensor, ...] | None = None
    positions: Tensor | None = None
    skip_BND: Tensor | None = None


def run_block(block: nn.Module, x_BND: Tensor, context: BlockContext) -> Tensor:
    """Call one block of any stack: the single place for recomputation or offloading."""
    return block(x_BND, context)


class Block(nn.Module):
    """x += gate Attn(mod(LN x)); x += gate MLP(mod(LN x)); with `skip`, first fuse [x, skip]."""

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, num_biases: int, skip: bool
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.attn = Attention(hidden_size, num_heads, num_biases)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))

    def forward(self, x_BND: Tensor, context: BlockContext) -> Tensor:
        """[B, N, D] to the same shape; the context holds a modulation."""
        assert context.modulation is not None
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = context.modulation
        if self.skip is not None and context.skip_BND is not None:
            x_BND = self.skip(torch.cat([x_BND, context.skip_BND], dim=-1))
        mixed = self.attn(modulate(normalise(x_BND), shift_a, scale_a), context.positions)
        x_BND = torch.addcmul(x_BND, gate_a, mixed)
        return torch.addcmul(x_BND, gate_m, self.mlp(modulate(normalise(x_BND), shift_m, scale_m)))


class PlainBlock(nn.Module):
    """x += Attn(LN x); x += MLP(LN x), affine norms and exact GELU (Dosovitskiy et al. 2021).

    The condition is among the tokens.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        norm_eps: float,
        qkv_bias: bool,
        skip: bool,
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.norm1 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.attn = Attention(hidden_size, num_heads, num_biases=0, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio), gelu="none")

    def forward(self, x_BND: Tensor, context: BlockContext) -> Tensor:
        """[B, N, D] to the same shape; the context's modulation is not read."""
        if self.skip is not None and context.skip_BND is not None:
            x_BND = self.skip(torch.cat([x_BND, context.skip_BND], dim=-1))
        x_BND = x_BND + self.attn(self.norm1(x_BND), context.positions)
        return x_BND + self.mlp(self.norm2(x_BND))


def init_linears(module: nn.Module, normal: bool = False) -> None:
    """Every Linear below `module`: xavier-uniform (DiT, MAE) or normal 0.02 (U-ViT); bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            if normal:
                nn.init.trunc_normal_(part.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
