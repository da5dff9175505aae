"""The one network: patches in, patches out, and a route on which some tokens may rest.

Axes: B batch, C channels, H W latent size, N all tokens, K kept tokens, E extra tokens (time,
class), D hidden size, V values of a patch.
"""

import torch
from torch import Tensor, nn

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.blocks import Block, Modulation, PlainBlock, init_linears
from mdt_cli.core.model.conditioning import ExtraTokens, LabelEmbedding, TimeEmbedding
from mdt_cli.core.model.decoder import NarrowDecoder, PatchDecoder
from mdt_cli.core.model.fills import Fill, Interpolator, PatchesFill
from mdt_cli.core.model.heads import Head, PatchEmbedding, PlainHead, PoolHead, unpatchify
from mdt_cli.core.model.positions import num_offsets, offset_index, sincos_table

# Norms of plain blocks and whether their queries, keys and values have a bias: U-ViT's and MAE's.
TOKENS_EPS, NO_CONDITION_EPS = 1e-5, 1e-6


class Transformer(nn.Module):
    """Denoising transformer of the DiT family (Peebles & Xie 2023; Gao et al. 2023).

    `condition`: "adaln" modulates every block; "tokens" puts time and class in front of the
    patches (U-ViT, Bao et al. 2023); "none" has neither, but a class token (MAE, He et al. 2022).
    `route` = (first block that sees the subset, first block that sees all tokens again), None for
    a network that never masks. The caller draws the subset; without one every block sees every
    token. Without a fill dropped tokens never return, and the output is zero in their places.
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
        condition: str,
        zero_null: bool,
        positions: str,
        relative_bias: bool,
        decoder_depth: int,
        long_skips: bool,
        input_skip: bool,
        narrow_depth: int,
        narrow_size: int,
        narrow_heads: int,
        narrow_subtract: bool,
        output_conv: bool,
        route: tuple[int, int] | None = None,
        fill: Fill | None = None,
        interpolator: Interpolator | None = None,
        classifier: PoolHead | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        self.grid = (height // patch_size, width // patch_size)
        self.patch_size, self.route = patch_size, route
        self.encoder_depth = depth - decoder_depth
        self.has_relative_bias = relative_bias
        self.skips = mirror_skips(self.encoder_depth) if long_skips else {}
        self.input_skip = input_skip
        modulated = condition == "adaln"
        eps = TOKENS_EPS if condition == "tokens" else NO_CONDITION_EPS

        self.patches = PatchEmbedding(channels, patch_size, hidden_size)
        table_ND = sincos_table(*self.grid, hidden_size)
        self.extras: ExtraTokens | None = None
        self.time: TimeEmbedding | None = None
        self.label: LabelEmbedding | None = None
        if modulated:
            self.time = TimeEmbedding(hidden_size)
            if num_classes:
                self.label = LabelEmbedding(num_classes, hidden_size, zero_null)
        else:
            time = condition == "tokens"
            self.extras = ExtraTokens(hidden_size, num_classes, time, positions == "random")
        if positions == "fixed":
            self.register_buffer("positions_ND", table_ND, persistent=False)
        else:
            self.positions_ND = nn.Parameter(table_ND)
        self.decoder_positions_ND = nn.Parameter(table_ND.clone()) if decoder_depth else None
        if relative_bias:
            self.register_buffer("offset_index_NN", offset_index(*self.grid), persistent=False)

        def block_of(size: int, heads: int, skip: bool, biases: int) -> Block | PlainBlock:
            if modulated:
                return Block(size, heads, mlp_ratio, biases, skip)
            return PlainBlock(size, heads, mlp_ratio, eps, condition == "none", skip)

        def head_of(size: int, out: int) -> Head | PlainHead:
            return Head(size, out, hidden_size) if modulated else PlainHead(size, out, eps)

        num_biases = num_offsets(*self.grid) if relative_bias else 0
        self.blocks = nn.ModuleList(
            block_of(
                hidden_size,
                num_heads,
                i in self.skips or (input_skip and i >= self.encoder_depth),
                num_biases,
            )
            for i in range(depth)
        )
        self.modulation = (
            Modulation(hidden_size, hidden_size, depth, num_chunks=6) if modulated else None
        )
        self.fill, self.interpolator = fill, interpolator
        self.adapter: Head | PlainHead | None = None
        self.narrow: NarrowDecoder | None = None
        if narrow_depth:
            self.adapter = head_of(hidden_size, narrow_size)
            blocks = [block_of(narrow_size, narrow_heads, False, 0) for _ in range(narrow_depth)]
            self.narrow = NarrowDecoder(
                self.grid, narrow_size, hidden_size, blocks, narrow_subtract
            )
        self.classifier = classifier
        self.head: Head | PlainHead | None = None
        if classifier is None:
            values = patch_size * patch_size * out_channels
            self.head = head_of(narrow_size if narrow_depth else hidden_size, values)
        self.output_conv = (
            nn.Conv2d(out_channels, out_channels, 3, padding=1) if output_conv else None
        )
        self._init(condition, positions == "random")

    def _init(self, condition: str, random_positions: bool) -> None:
        """DiT's start; that of U-ViT where time and class are tokens, of MAE without either."""
        side = None if self.interpolator is None else self.interpolator.block
        narrow = None if self.narrow is None else self.narrow.blocks
        for part in (self.blocks, side, narrow):
            if part is not None:
                init_linears(part, normal=condition == "tokens")
        if condition != "adaln":
            for head in (self.adapter, self.head):
                if head is not None:
                    init_linears(head, normal=condition == "tokens")
        if random_positions:
            nn.init.trunc_normal_(self.positions_ND, std=0.02)
        if self.time is not None:
            for linear in (self.time.fc1, self.time.fc2):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
        if self.label is not None:
            nn.init.normal_(self.label.table.weight, std=0.02)

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def condition(self, t_B: Tensor, y_B: Tensor | None) -> Tensor | None:
        """The vector [B, D] that modulates; None where the condition is among the tokens."""
        if self.time is None:
            return None
        c_BD = self.time(t_B)
        if self.label is not None:
            assert y_B is not None
            c_BD = c_BD + self.label(y_B)
        return c_BD

    def forward(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        y_B: Tensor | None,
        subset: TokenSubset | None = None,
        elsewhere_BCHW: Tensor | None = None,
    ) -> Tensor:
        """[B, out_channels, H, W], or [B, num_classes] from a classifier.

        `y_B` is ignored by a network without classes.

        `elsewhere_BCHW` is the image that a `PatchesFill` puts where tokens are dropped.
        """
        if subset is not None and self.route is None:
            raise ValueError("a subset was given to a network that was built without a route")
        c_BD = self.condition(t_B, y_B)
        x = self._blocks(self._embed(x_BCHW, t_B, y_B), c_BD, subset)
        if self.narrow is not None and self.adapter is not None:
            x = self.adapter(x, c_BD)
            if subset is not None:
                left = None
                if isinstance(self.fill, PatchesFill):
                    left = self.fill.patches(elsewhere_BCHW)
                x = self._restore(x, left, subset)
            x = self.narrow(x, c_BD)
        if self.extras is not None:
            x = x[:, self.extras.count :]
        if self.classifier is not None:
            return self.classifier(x)
        assert self.head is not None
        x_BNV = self.head(x, c_BD)
        if subset is not None and self.fill is None:
            x_BNV = subset.scatter(
                x_BNV, x_BNV.new_zeros(len(x_BNV), self.num_tokens, x_BNV.shape[2])
            )
        output = unpatchify(x_BNV, self.grid, self.patch_size)
        return output if self.output_conv is None else self.output_conv(output)

    def _embed(self, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        patches_BND = self.patches(x_BCHW) + self.positions_ND
        if self.extras is None:
            return patches_BND
        return torch.cat([self.extras(t_B, y_B, patches_BND), patches_BND], dim=1)

    def _blocks(self, input_BND: Tensor, c_BD: Tensor | None, subset: TokenSubset | None) -> Tensor:
        """All tokens through the blocks; those that no block brings back stay away."""
        modulations = None if self.modulation is None else self.modulation(c_BD)
        whole_index = self.offset_index_NN if self.has_relative_bias else None
        index, x, left = whole_index, input_BND, input_BND
        leave, restore = self.route or (-1, -1)
        if self.narrow is not None or self.fill is None:
            restore = -1
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            if subset is not None and i == leave:
                left, x = x, self._leave(x, subset)
                index = None if index is None else _among(index, subset)
            if i == self.encoder_depth or (subset is not None and i == restore):
                if subset is not None and i == restore:
                    x, index = self._restore(x, left, subset), whole_index
                if i == self.encoder_depth and self.decoder_positions_ND is not None:
                    x = x + self.decoder_positions_ND
                if subset is not None and i == restore and self.interpolator is not None:
                    x = self.interpolator(x, c_BD, index, subset)
            skip = input_BND if self.input_skip and i >= self.encoder_depth else None
            if i in self.skips:
                skip = kept.pop(self.skips[i])
            x = block(x, None if modulations is None else modulations[i], index, skip)
            if i in self.skips.values():
                kept[i] = x
        if subset is not None and restore == len(self.blocks):
            x = self._restore(x, left, subset)
        return x

    def _leave(self, x_BND: Tensor, subset: TokenSubset) -> Tensor:
        """Extra tokens never leave."""
        if self.extras is None:
            return subset.gather(x_BND)
        count = self.extras.count
        return torch.cat([x_BND[:, :count], subset.gather(x_BND[:, count:])], dim=1)

    def _restore(self, x_BKD: Tensor, left_BND: Tensor | None, subset: TokenSubset) -> Tensor:
        assert self.fill is not None
        if self.extras is None:
            return self.fill(x_BKD, left_BND, subset)
        count = self.extras.count
        left = None if left_BND is None else left_BND[:, count:]
        return torch.cat([x_BKD[:, :count], self.fill(x_BKD[:, count:], left, subset)], dim=1)

    def patch_decoder(self) -> PatchDecoder:
        """The decoder with the embedding of its fill; the parameters are shared, not copied."""
        assert isinstance(self.fill, PatchesFill)
        assert self.narrow is not None
        assert self.head is not None
        return PatchDecoder(self.fill.patches, self.narrow, self.head)


def mirror_skips(depth: int) -> dict[int, int]:
    """Which block each block of the second half takes its skip from: last in, first out.

    An odd depth has a block in the middle without a skip (U-ViT).
    """
    return {depth - 1 - i: i for i in range(depth // 2)}


def _among(index_NN: Tensor, subset: TokenSubset) -> Tensor:
    """Offset index [B, K, K] between the kept tokens, gathered once and shared by all blocks."""
    kept = subset.kept_BK
    return index_NN[kept.unsqueeze(2), kept.unsqueeze(1)]
