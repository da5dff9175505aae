"""The one network: patches in, patches out, and a route on which some tokens may rest.

Axes: B batch, C channels, H W latent size, N all tokens, K kept tokens, D hidden size.
"""

from torch import Tensor, nn

from mdt_cli.core.model.conditioning import LabelEmbedding, TimeEmbedding
from mdt_cli.core.model.fills import InputFill, Interpolator, MaskTokenFill, ZerosFill
from mdt_cli.core.model.heads import Head, PatchEmbedding, unpatchify
from mdt_cli.core.model.layers import Block, Modulation, init_linears
from mdt_cli.core.model.positions import num_offsets, offset_index, sincos_table
from mdt_cli.core.tokens import TokenSubset

Fill = ZerosFill | InputFill | MaskTokenFill


class Transformer(nn.Module):
    """Denoising transformer of the DiT family (Peebles & Xie 2023; Gao et al. 2023).

    `route` = (first block that sees the subset, first block that sees all tokens again). The
    caller draws the subset; without one every block sees every token.
    """

    offset_index_NN: Tensor
    positions_ND: Tensor

    def __init__(
        self,
        *,
        latent_shape: tuple[int, int, int],
        out_channels: int,
        num_classes: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        learned_positions: bool,
        relative_bias: bool,
        decoder_depth: int,
        long_skips: bool,
        input_skip: bool,
        route: tuple[int, int] = (0, 0),
        fill: Fill | None = None,
        interpolator: Interpolator | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        self.grid = (height // patch_size, width // patch_size)
        self.patch_size, self.route = patch_size, route
        self.encoder_depth = depth - decoder_depth
        self.has_relative_bias = relative_bias
        self.skips = mirror_skips(self.encoder_depth) if long_skips else {}
        self.input_skip = input_skip

        self.patches = PatchEmbedding(channels, patch_size, hidden_size)
        table_ND = sincos_table(*self.grid, hidden_size)
        if learned_positions:
            self.positions_ND = nn.Parameter(table_ND)
        else:
            self.register_buffer("positions_ND", table_ND, persistent=False)
        self.decoder_positions_ND = nn.Parameter(table_ND.clone()) if decoder_depth else None
        if relative_bias:
            self.register_buffer("offset_index_NN", offset_index(*self.grid), persistent=False)

        self.time = TimeEmbedding(hidden_size)
        self.label = LabelEmbedding(num_classes, hidden_size) if num_classes else None
        num_biases = num_offsets(*self.grid) if relative_bias else 0
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_heads,
                mlp_ratio,
                num_biases,
                skip=i in self.skips or (input_skip and i >= self.encoder_depth),
            )
            for i in range(depth)
        )
        self.modulation = Modulation(hidden_size, hidden_size, depth, num_chunks=6)
        self.fill, self.interpolator = fill, interpolator
        self.head = Head(hidden_size, patch_size, out_channels)
        self._init()

    def _init(self) -> None:
        for part in (self.blocks, self.interpolator and self.interpolator.block):
            if part is not None:
                init_linears(part)
        for linear in (self.time.fc1, self.time.fc2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if self.label is not None:
            nn.init.normal_(self.label.table.weight, std=0.02)

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def forward(
        self, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor | None, subset: TokenSubset | None = None
    ) -> Tensor:
        """[B, out_channels, H, W]. `y_B` is ignored by a network without classes.

        With a subset the output is still whole where the route has a fill.
        """
        input_BND = self.patches(x_BCHW) + self.positions_ND
        c_BD = self.time(t_B)
        if self.label is not None:
            assert y_B is not None
            c_BD = c_BD + self.label(y_B)
        modulations = self.modulation(c_BD)
        whole_index = self.offset_index_NN if self.has_relative_bias else None
        index, x, left = whole_index, input_BND, input_BND
        leave, restore = self.route
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            if subset is not None and i == leave:
                left, x = x, subset.gather(x)
                index = None if index is None else _among(index, subset)
            if i == self.encoder_depth or (subset is not None and i == restore):
                if subset is not None and i == restore:
                    x, index = self._restore(x, left, subset), whole_index
                if i == self.encoder_depth:
                    x = x + self.decoder_positions_ND
                if subset is not None and i == restore and self.interpolator is not None:
                    x = self.interpolator(x, c_BD, index, subset)
            skip = input_BND if self.input_skip and i >= self.encoder_depth else None
            if i in self.skips:
                skip = kept.pop(self.skips[i])
            x = block(x, modulations[i], index, skip)
            if i in self.skips.values():
                kept[i] = x
        if subset is not None and restore == len(self.blocks):
            x = self._restore(x, left, subset)
        return unpatchify(self.head(x, c_BD), self.grid, self.patch_size)

    def _restore(self, x_BKD: Tensor, left_BND: Tensor, subset: TokenSubset) -> Tensor:
        if self.fill is None:
            raise ValueError("a subset was given to a network that was built without a fill")
        return self.fill(x_BKD, left_BND, subset)


def mirror_skips(depth: int) -> dict[int, int]:
    """Which block each block of the second half takes its skip from: last in, first out."""
    return {depth - 1 - i: i for i in range(depth // 2)}


def _among(index_NN: Tensor, subset: TokenSubset) -> Tensor:
    """Offset index [B, K, K] between the kept tokens, gathered once and shared by all blocks."""
    kept = subset.kept_BK
    return index_NN[kept.unsqueeze(2), kept.unsqueeze(1)]
