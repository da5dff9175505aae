"""Embeddings of time and class, as a vector or as tokens.

Axes: B batch, E extra tokens, N tokens of patches, D hidden size.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 128
MAX_PERIOD = 10000.0

# What learned positions of extra tokens start as; None: there are none.
Start = Literal["random", "zeros"] | None


def sinusoids(t_B: Tensor, size: int) -> Tensor:
    """float32 [B, size]: cosines, then sines of the time (the order of DiT and U-ViT)."""
    half = size // 2
    k = torch.arange(half, dtype=torch.float32, device=t_B.device)
    angle = t_B.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * k / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of the raw time, 256 wide, through a two-layer MLP (DiT)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * FREQUENCIES, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, t_B: Tensor) -> Tensor:
        """[B, D] from times [B] of any dtype."""
        waves = sinusoids(t_B, 2 * FREQUENCIES)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One row per class; "no class" is index `num_classes`: a last row, or zeros (`zero_null`)."""

    def __init__(self, num_classes: int, hidden_size: int, zero_null: bool = False) -> None:
        super().__init__()
        self.num_classes, self.zero_null = num_classes, zero_null
        self.table = nn.Embedding(num_classes + (not zero_null), hidden_size)

    def forward(self, y_B: Tensor) -> Tensor:
        """[B, D] from class indices [B] in 0..num_classes."""
        if not self.zero_null:
            return self.table(y_B)
        rows = self.table(y_B.clamp(max=self.num_classes - 1))
        return rows * (y_B < self.num_classes).unsqueeze(1).to(rows.dtype)


class ExtraTokens(nn.Module):
    """Tokens in front of the patches: class and time (U-ViT), or one learned token (MAE).

    They join the sequence before block `at_block`. `positions`: what the learned position of each
    starts as; None: they have none.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        time: bool,
        positions: Start,
        at_block: int = 0,
    ) -> None:
        super().__init__()
        self.hidden_size, self.at_block = hidden_size, at_block
        self.label = LabelEmbedding(num_classes, hidden_size) if num_classes and time else None
        self.class_token = None
        if not time:
            self.class_token = nn.Parameter(torch.empty(1, 1, hidden_size))
            nn.init.normal_(self.class_token, std=0.02)
        self.count = 1 + (self.label is not None)
        self.positions_ED = None
        if positions is not None:
            self.positions_ED = nn.Parameter(torch.zeros(self.count, hidden_size))
        if positions == "random":
            assert self.positions_ED is not None
            nn.init.trunc_normal_(self.positions_ED, std=0.02)

    def forward(self, t_B: Tensor, y_B: Tensor | None, x_BND: Tensor) -> Tensor:
        """[B, E+N, D]: the extra tokens, class before time, then those of `x_BND`."""
        if self.class_token is not None:
            extras = self.class_token.to(x_BND.dtype).expand(len(x_BND), -1, -1)
        else:
            extras = sinusoids(t_B, self.hidden_size).to(x_BND.dtype).unsqueeze(1)
            if self.label is not None:
                assert y_B is not None
                extras = torch.cat([self.label(y_B).to(x_BND.dtype).unsqueeze(1), extras], dim=1)
        if self.positions_ED is not None:
            extras = extras + self.positions_ED
        return torch.cat([extras, x_BND], dim=1)


class ClassTokens(nn.Module):
    """`count` copies of the class vector in front of the patches, each plus a learned vector.

    In-context conditioning beside the modulation (Li & He 2025, 2511.13720). The copies join the
    sequence before block `at_block`.
    """

    def __init__(self, hidden_size: int, count: int, at_block: int) -> None:
        super().__init__()
        self.count, self.at_block = count, at_block
        self.positions_ED = nn.Parameter(torch.empty(count, hidden_size))
        nn.init.normal_(self.positions_ED, std=0.02)

    def forward(self, label_BD: Tensor, x_BND: Tensor) -> Tensor:
        """[B, E+N, D]: the copies, then the tokens of `x_BND`."""
        extras = label_BD.unsqueeze(1) + self.positions_ED
        return torch.cat([extras.to(x_BND.dtype), x_BND], dim=1)
