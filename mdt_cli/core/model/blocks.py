"""The adaLN-Zero block (Peebles & Xie 2023) and the plain block of ViT.

Axes: B batch, N tokens of this pass, D channels, L blocks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdt_cli.core.model.attention import Attention
from mdt_cli.core.model.mlp import make_mlp
from mdt_cli.core.model.positions import AttentionPositions
from mdt_cli.core.model.shape import BlockStyle

NORM_EPS = 1e-6


def unmodulated_norm(size: int, style: BlockStyle) -> nn.Module:
    """The norm in front of a modulation, eps 1e-6.

    LayerNorm without parameters (DiT), or RMSNorm with a learned scale (Zhang & Sennrich 2019),
    as Yao et al. 2025 (2501.01423) and Li & He 2025 (2511.13720) modulate it.
    """
    if style.norm == "rms":
        return nn.RMSNorm(size, eps=NORM_EPS)
    return nn.LayerNorm(size, eps=NORM_EPS, elementwise_affine=False)


def affine_norm(size: int, style: BlockStyle, eps: float) -> nn.Module:
    """The norm where nothing modulates: LayerNorm with scale and shift, or RMSNorm with a scale."""
    return nn.RMSNorm(size, eps=eps) if style.norm == "rms" else nn.LayerNorm(size, eps=eps)


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
    """x += gate Attn(mod(norm x)); x += gate MLP(mod(norm x)); with `skip`, first fuse [x, skip].

    `positions` are those that its attention will be given.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        positions: AttentionPositions,
        skip: bool,
        style: BlockStyle,
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.norm1 = unmodulated_norm(hidden_size, style)
        self.attn = Attention(hidden_size, num_heads, positions, style.qk_norm)
        self.norm2 = unmodulated_norm(hidden_size, style)
        self.mlp = make_mlp(hidden_size, int(hidden_size * mlp_ratio), style, gelu="tanh")

    def forward(self, x_BND: Tensor, context: BlockContext) -> Tensor:
        """[B, N, D] to the same shape; the context holds a modulation."""
        assert context.modulation is not None
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = context.modulation
        if self.skip is not None and context.skip_BND is not None:
            x_BND = self.skip(torch.cat([x_BND, context.skip_BND], dim=-1))
        mixed = self.attn(modulate(self.norm1(x_BND), shift_a, scale_a), context.positions)
        x_BND = torch.addcmul(x_BND, gate_a, mixed)
        mixed = self.mlp(modulate(self.norm2(x_BND), shift_m, scale_m))
        return torch.addcmul(x_BND, gate_m, mixed)


class PlainBlock(nn.Module):
    """x += Attn(norm x); x += MLP(norm x), affine norms and exact GELU (Dosovitskiy et al. 2021).

    The condition is among the tokens. `positions` are those that its attention will be given.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        norm_eps: float,
        qkv_bias: bool,
        positions: AttentionPositions,
        skip: bool,
        style: BlockStyle,
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.norm1 = affine_norm(hidden_size, style, norm_eps)
        self.attn = Attention(hidden_size, num_heads, positions, style.qk_norm, qkv_bias)
        self.norm2 = affine_norm(hidden_size, style, norm_eps)
        self.mlp = make_mlp(hidden_size, int(hidden_size * mlp_ratio), style, gelu="none")

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
