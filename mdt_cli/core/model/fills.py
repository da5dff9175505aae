"""What stands in for dropped tokens when the kept ones return.

A fill is `(kept_BKD, left_BND, subset) -> x_BND`, where `left_BND` is what all tokens were when
the dropped ones left. Interpolation, where there is any, comes after positions are added.
"""

import torch
from torch import Tensor, nn

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.blocks import Block, Modulation
from mdt_cli.core.model.heads import PatchEmbedding


class ZerosFill(nn.Module):
    def forward(self, kept_BKD: Tensor, left_BND: Tensor | None, subset: TokenSubset) -> Tensor:
        batch, _, size = kept_BKD.shape
        return subset.scatter(kept_BKD, kept_BKD.new_zeros(batch, subset.num_tokens, size))


class InputFill(nn.Module):
    """Dropped tokens come back as they left: TREAD's route (Krause et al. 2025)."""

    def forward(self, kept_BKD: Tensor, left_BND: Tensor, subset: TokenSubset) -> Tensor:
        return subset.scatter(kept_BKD, left_BND.to(kept_BKD.dtype))


class MeanFill(nn.Module):
    """Each sample's mean of the kept tokens for every dropped one: a control without content."""

    def forward(self, kept_BKD: Tensor, left_BND: Tensor | None, subset: TokenSubset) -> Tensor:
        mean_B1D = kept_BKD.mean(1, keepdim=True)
        return subset.scatter(kept_BKD, mean_B1D.expand(-1, subset.num_tokens, -1))


class MaskTokenFill(nn.Module):
    """One learned vector for every dropped token (He et al. 2022)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, kept_BKD: Tensor, left_BND: Tensor | None, subset: TokenSubset) -> Tensor:
        batch = kept_BKD.shape[0]
        token = self.mask_token.to(kept_BKD.dtype)
        return subset.scatter(kept_BKD, token.expand(batch, subset.num_tokens, -1))


class PatchesFill(nn.Module):
    """Embedded patches of a second image where tokens are dropped: MC-DiT's clean context.

    The paper feeds the decoder raw patches; the embedding that gives them its width is ours.
    """

    def __init__(self, channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(channels, patch_size, hidden_size)

    def forward(self, kept_BKD: Tensor, left_BND: Tensor, subset: TokenSubset) -> Tensor:
        """Here `left_BND` is the embedded second image."""
        return subset.scatter(kept_BKD, left_BND.to(kept_BKD.dtype))


Fill = ZerosFill | MeanFill | InputFill | MaskTokenFill | PatchesFill


class Interpolator(nn.Module):
    """MDT's side-interpolater (Gao et al. 2023): one block guesses the dropped tokens.

    Kept tokens pass unchanged; the block sees them and the mask tokens, positions included.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, num_biases: int) -> None:
        super().__init__()
        self.block = Block(hidden_size, num_heads, mlp_ratio, num_biases, skip=False)
        self.modulation = Modulation(hidden_size, hidden_size, depth=1, num_chunks=6)

    def forward(
        self, x_BND: Tensor, c_BD: Tensor, offset_index: Tensor | None, subset: TokenSubset
    ) -> Tensor:
        guess_BND = self.block(x_BND, self.modulation(c_BD)[0], offset_index)
        return torch.where(subset.dropped_BN.unsqueeze(-1), guess_BND, x_BND)
