"""The one network: patches in, patches out, and a route on which some tokens may rest.

Axes: B batch, C channels, H W latent size, N all tokens, K kept tokens, E extra tokens (time,
class), D hidden size, V values of a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mdt_cli.core.batch import Answer
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.blocks import BlockContext, Modulation, run_block
from mdt_cli.core.model.conditioning import Embeddings
from mdt_cli.core.model.decoder import NarrowDecoder, PatchDecoder
from mdt_cli.core.model.embeddings import ClassTokens
from mdt_cli.core.model.fills import Fill, Interpolator, PatchesFill
from mdt_cli.core.model.heads import Head, PatchEmbedding, PlainHead, PoolHead, unpatchify
from mdt_cli.core.model.positions import AttentionPositions, with_positions
from mdt_cli.core.model.route import Passage, Route


@dataclass(frozen=True, eq=False)
class Trunk:
    """The blocks and what belongs to them; those from `encoder_depth` on are the decoder's.

    `table_ND` is added to the patches, `decoder_table_ND` again before the decoder; parameters
    are trained, plain tensors are fixed, None adds nothing. `skips`: block -> the block whose
    output it fuses. `input_skip`: each decoder block fuses the embedded input.
    """

    blocks: Sequence[nn.Module]
    modulation: Modulation | None
    positions: AttentionPositions
    table_ND: Tensor | None
    decoder_table_ND: nn.Parameter | None
    encoder_depth: int
    skips: dict[int, int]
    input_skip: bool


@dataclass(frozen=True, eq=False)
class Masked:
    """What masked passes need: the route, and what stands in for the tokens that were away.

    Without a fill dropped tokens never return, and the output is zero at their positions. `fuse`
    gets the tokens that return and those that left, [B, N, D] both, in unmasked passes as well.
    """

    route: Route
    fill: Fill | None = None
    interpolator: Interpolator | None = None
    fuse: nn.Module | None = None


class Transformer(nn.Module):
    """Denoising transformer of the DiT family (Peebles & Xie 2023; Gao et al. 2023).

    Built from parts; `assemble` makes them from a shape. `decoder` is an adapter to another width
    with the narrow decoder behind it; `head` gives patches, or logits where it is a `PoolHead`.
    The caller draws the subset of a pass; without one every block sees every token.
    """

    positions_ND: Tensor | None

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        patch_size: int,
        patches: PatchEmbedding,
        embeddings: Embeddings,
        trunk: Trunk,
        masked: Masked | None,
        decoder: tuple[Head | PlainHead, NarrowDecoder] | None,
        head: Head | PlainHead | PoolHead,
        output_conv: nn.Conv2d | None,
    ) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.encoder_depth, self.input_skip = trunk.encoder_depth, trunk.input_skip
        self.skips = trunk.skips
        # The names and the order in which parts are attached are those of the files of weights.
        self.patches = patches
        self.extras = embeddings.extras
        self.time, self.label = embeddings.time, embeddings.label
        if isinstance(trunk.table_ND, nn.Parameter):
            self.positions_ND = trunk.table_ND
        else:
            self.register_buffer("positions_ND", trunk.table_ND, persistent=False)
        self.decoder_positions_ND = trunk.decoder_table_ND
        self.positions = trunk.positions
        self.blocks = nn.ModuleList(trunk.blocks)
        self.modulation = trunk.modulation
        self.route = None if masked is None else masked.route
        self.fill = None if masked is None else masked.fill
        self.interpolator = None if masked is None else masked.interpolator
        self.fuse = None if masked is None else masked.fuse
        self.adapter = None if decoder is None else decoder[0]
        self.narrow = None if decoder is None else decoder[1]
        self.classifier = head if isinstance(head, PoolHead) else None
        self.head = None if isinstance(head, PoolHead) else head
        self.output_conv = output_conv
        self.early_head: Head | PlainHead | None = None
        self.early_head_at = 0
        self._check()

    def _check(self) -> None:
        """ValueError where parts do not fit each other."""
        if self.extras is not None and self.extras.at_block and (self.skips or self.input_skip):
            raise ValueError("extra tokens that enter between blocks cannot cross a skip")
        behind = self.route is None or self.route.return_at == len(self.blocks)
        if self.narrow is not None and not behind:
            raise ValueError("with a narrow decoder tokens return behind the last block")

    def add_early_head(self, head: Head | PlainHead, at: int) -> None:
        """A second head, which answers from the tokens behind the first `at` blocks."""
        self.early_head, self.early_head_at = head, at

    @property
    def num_tokens(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    def stacks(self) -> dict[str, list[nn.Module]]:
        """All blocks by stack, under the names that lead to them; the trunk comes first."""
        found: dict[str, list[nn.Module]] = {"blocks": list(self.blocks)}
        if self.interpolator is not None:
            found["interpolator.block"] = [self.interpolator.block]
        if self.narrow is not None:
            found["narrow.blocks"] = list(self.narrow.blocks)
        return found

    def _condition(self, t_B: Tensor, y_B: Tensor | None) -> Tensor | None:
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
    ) -> Answer:
        """`final` is [B, out_channels, H, W], or [B, num_classes] from a classifier.

        `t_B` is the number that the time embedding reads. `y_B` holds classes, `num_classes` for
        none; it is ignored by a network without classes. `elsewhere_BCHW` is the image that a
        `PatchesFill` shows where tokens are dropped.
        """
        if subset is not None and self.route is None:
            raise ValueError("a subset was given to a network that was built without a route")
        c_BD = self._condition(t_B, y_B)
        passage = Passage(self.route, subset, self.positions, self.fill, self.fuse)
        x, num_extras, early = self._blocks(x_BCHW, t_B, y_B, c_BD, passage, elsewhere_BCHW)
        if self.narrow is not None and self.adapter is not None:
            x = self.adapter(x, c_BD)
        if passage.returns_at(len(self.blocks)):
            x = passage.come_back(x, num_extras, elsewhere_BCHW)
        if self.narrow is not None:
            x = self.narrow(x, c_BD)
        if num_extras:
            x = x[:, num_extras:]
        if self.classifier is not None:
            return Answer(self.classifier(x), c_BD)
        assert self.head is not None
        output = self._image(self.head(x, c_BD), subset if self.fill is None else None)
        if self.output_conv is not None:
            output = self.output_conv(output)
        return Answer(output, c_BD, early)

    def _image(self, x_BNV: Tensor, present: TokenSubset | None) -> Tensor:
        """[B, C, H, W]; zero where tokens are not `present`, which are all where it is None."""
        if present is not None:
            x_BNV = present.scatter(
                x_BNV, x_BNV.new_zeros(len(x_BNV), self.num_tokens, x_BNV.shape[2])
            )
        return unpatchify(x_BNV, self.grid, self.patch_size)

    def _blocks(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        y_B: Tensor | None,
        c_BD: Tensor | None,
        passage: Passage,
        elsewhere_BCHW: Tensor | None,
    ) -> tuple[Tensor, int, Tensor | None]:
        """The tokens behind the last block, how many of them, in front, are extra; early answer."""
        x, num_extras = self.patches(x_BCHW), 0
        if self.positions_ND is not None:
            x = x + self.positions_ND
        if self.extras is not None and self.extras.at_block == 0:
            x, num_extras = self._with_extras(x, t_B, y_B)
        input_BND = x
        modulations = None if self.modulation is None else self.modulation(c_BD)
        outputs: dict[int, Tensor] = {}
        early = None
        for i, block in enumerate(self.blocks):
            if self.extras is not None and i == self.extras.at_block > 0:
                x, num_extras = self._with_extras(x, t_B, y_B)
            if passage.leaves_at(i):
                x = passage.leave(x, num_extras)
            returns = passage.returns_at(i)
            if returns:
                x = passage.come_back(x, num_extras, elsewhere_BCHW)
            if i == self.encoder_depth and self.decoder_positions_ND is not None:
                x = with_positions(x, self.decoder_positions_ND)
            if returns and self.interpolator is not None and passage.subset is not None:
                known = passage.attention(num_extras)
                x = self.interpolator(x, c_BD, known, passage.subset)
            skip = input_BND if self.input_skip and i >= self.encoder_depth else None
            if i in self.skips:
                skip = outputs.pop(self.skips[i])
            modulation = None if modulations is None else modulations[i]
            x = run_block(block, x, BlockContext(modulation, passage.attention(num_extras), skip))
            if i in self.skips.values():
                outputs[i] = x
            if self.early_head is not None and i + 1 == self.early_head_at:
                early = self._image(self.early_head(x[:, num_extras:], c_BD), passage.present)
        return x, num_extras, early

    def _with_extras(self, x_BND: Tensor, t_B: Tensor, y_B: Tensor | None) -> tuple[Tensor, int]:
        assert self.extras is not None
        if isinstance(self.extras, ClassTokens):
            assert self.label is not None
            return self.extras(self.label(y_B), x_BND), self.extras.count
        return self.extras(t_B, y_B, x_BND), self.extras.count

    def patch_decoder(self) -> PatchDecoder:
        """The decoder with the embedding of its fill; the parameters are shared, not copied."""
        assert isinstance(self.fill, PatchesFill)
        assert self.narrow is not None
        assert self.head is not None
        return PatchDecoder(self.fill.patches, self.narrow, self.head)
