"""The narrow decoder: a smaller transformer behind the encoder (He et al. 2022; Zheng et al. 2023).

Axes: B batch, C channels, H W latent size, N all tokens, E extra tokens, D hidden size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mdt_cli.core.model.blocks import BlockContext, Modulation, run_block
from mdt_cli.core.model.heads import Head, PatchEmbedding, PlainHead, unpatchify
from mdt_cli.core.model.positions import AttentionPositions, with_positions


class NarrowDecoder(nn.Module):
    """Fixed positions, added once (or subtracted: LMD), then blocks of a width of their own.

    `modulation` modulates the blocks, None where nothing does; `positions` are what their
    attention knows of positions.
    """

    positions_ND: Tensor

    def __init__(
        self,
        positions_ND: Tensor,
        blocks: Sequence[nn.Module],
        modulation: Modulation | None,
        positions: AttentionPositions,
    ) -> None:
        super().__init__()
        self.register_buffer("positions_ND", positions_ND, persistent=False)
        self.blocks = nn.ModuleList(blocks)
        self.modulation = modulation
        self.positions = positions

    def forward(self, x_BND: Tensor, c_BD: Tensor | None) -> Tensor:
        """[B, E+N, D] to the same shape; the E extra tokens in front have no position."""
        num_extras = x_BND.shape[1] - self.positions_ND.shape[0]
        x_BND = with_positions(x_BND, self.positions_ND)
        modulations = self.modulation(c_BD) if self.modulation is not None else None
        known = self.positions.for_pass(None, num_extras)
        for i, block in enumerate(self.blocks):
            context = BlockContext(modulations[i] if modulations else None, known)
            x_BND = run_block(block, x_BND, context)
        return x_BND


class PatchDecoder(nn.Module):
    """The decoder alone, fed with the patches of an image at every position (MC-DiT's branches)."""

    def __init__(
        self, patches: PatchEmbedding, narrow: NarrowDecoder, head: Head | PlainHead
    ) -> None:
        super().__init__()
        self.patches, self.narrow, self.head = patches, narrow, head

    def forward(self, x_BCHW: Tensor, c_BD: Tensor | None) -> Tensor:
        """Scaled latents to the network's raw answer, [B, C, H, W] both."""
        patch_size = self.patches.conv.kernel_size[0]
        grid = (x_BCHW.shape[2] // patch_size, x_BCHW.shape[3] // patch_size)
        x_BND = self.narrow(self.patches(x_BCHW), c_BD)
        return unpatchify(self.head(x_BND, c_BD), grid, patch_size)
