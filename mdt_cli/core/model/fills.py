"""What stands in for dropped tokens when the kept ones return.

Axes: B batch, C channels, H W latent size, N all tokens, K kept tokens, D hidden size.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.blocks import Block, BlockContext, Modulation, run_block
from mdt_cli.core.model.heads import PatchEmbedding
from mdt_cli.core.model.positions import AttentionPositions
from mdt_cli.core.model.shape import BlockStyle


class Fill(nn.Module, ABC):
    """Kept tokens at their positions among all, something else at the others."""

    @abstractmethod
    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        """[B, N, D]. `left_BND`: all tokens when the dropped ones left; `second_BCHW`: an image."""


class ZerosFill(Fill):
    """Zeros for every dropped token."""

    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        batch, _, size = kept_BKD.shape
        return subset.scatter(kept_BKD, kept_BKD.new_zeros(batch, subset.num_tokens, size))


class InputFill(Fill):
    """Dropped tokens come back as they left: TREAD's route (Krause et al. 2025)."""

    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        assert left_BND is not None
        return subset.scatter(kept_BKD, left_BND.to(kept_BKD.dtype))


class MeanFill(Fill):
    """Each sample's mean of the kept tokens for every dropped one: a control without content."""

    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        mean_B1D = kept_BKD.mean(1, keepdim=True)
        return subset.scatter(kept_BKD, mean_B1D.expand(-1, subset.num_tokens, -1))


class MaskTokenFill(Fill):
    """One learned vector for every dropped token (He et al. 2022)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        batch = kept_BKD.shape[0]
        token = self.mask_token.to(kept_BKD.dtype)
        return subset.scatter(kept_BKD, token.expand(batch, subset.num_tokens, -1))


class PatchesFill(Fill):
    """Embedded patches of a second image where tokens are dropped: MC-DiT's clean context.

    The paper feeds the decoder raw patches; the embedding that gives them its width is ours.
    """

    def __init__(self, channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(channels, patch_size, hidden_size)

    def forward(
        self,
        kept_BKD: Tensor,
        left_BND: Tensor | None,
        subset: TokenSubset,
        second_BCHW: Tensor | None = None,
    ) -> Tensor:
        return subset.scatter(kept_BKD, self.patches(second_BCHW).to(kept_BKD.dtype))


class Interpolator(nn.Module):
    """MDT's side-interpolater (Gao et al. 2023): one block guesses the dropped tokens.

    Kept and extra tokens pass unchanged; the block sees them and the mask tokens, positions
    included.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        positions: AttentionPositions,
        style: BlockStyle,
    ) -> None:
        super().__init__()
        self.block = Block(hidden_size, num_heads, mlp_ratio, positions, False, style)
        self.modulation = Modulation(hidden_size, hidden_size, depth=1, num_chunks=6)

    def forward(
        self, x_BND: Tensor, c_BD: Tensor, positions: Tensor | None, subset: TokenSubset
    ) -> Tensor:
        """[B, E+N, D] to the same shape; `positions` are those of the stack that it stands in."""
        context = BlockContext(self.modulation(c_BD)[0], positions)
        guess_BND = run_block(self.block, x_BND, context)
        guessed_BN = subset.dropped_BN
        num_extras = x_BND.shape[1] - subset.num_tokens
        if num_extras:
            guessed_BN = torch.cat([guessed_BN.new_zeros(len(x_BND), num_extras), guessed_BN], 1)
        return torch.where(guessed_BN.unsqueeze(-1), guess_BND, x_BND)
