"""From a shape to a network: the one place where parts are made and put together."""

from typing import assert_never

from torch import nn

from mdt_cli.core.model.conditioning import AdaLNZero, ClassToken, Conditioning, InContext
from mdt_cli.core.model.decoder import NarrowDecoder
from mdt_cli.core.model.embeddings import Start
from mdt_cli.core.model.heads import Head, PatchEmbedding, PlainHead, PoolHead
from mdt_cli.core.model.positions import (
    AttentionPositions,
    NoPositions,
    RelativeOffsets,
    Rotary,
    sincos_table,
)
from mdt_cli.core.model.shape import TransformerShape
from mdt_cli.core.model.transformer import Masked, Transformer, Trunk


def assemble(
    shape: TransformerShape,
    masked: Masked | None = None,
    classifier: PoolHead | None = None,
    conditioning: Conditioning | None = None,
    positions: AttentionPositions | None = None,
) -> Transformer:
    """A new network with initial weights from torch's random numbers.

    `masked`: what masked passes need; `classifier` replaces the head. `conditioning`
    and `positions` (those of the trunk's attention) default to those that the shape names.
    """
    # The order of what follows is the order of the random numbers: a seed stands for its weights.
    trunk, size = shape.trunk, shape.trunk.hidden_size
    conditioning = conditioning or conditioning_of(shape)
    channels, bottleneck = shape.latent_shape[0], shape.patch_bottleneck
    patches = PatchEmbedding(channels, shape.patch_size, size, bottleneck)
    embeddings = conditioning.embeddings()
    stack = _trunk(shape, conditioning, positions or positions_of(shape))
    decoder = _decoder(shape, conditioning) if shape.decoder.depth else None
    head: Head | PlainHead | PoolHead
    if classifier is None:
        head = conditioning.head(shape.width, shape.patch_size**2 * shape.out_channels)
    else:
        head = classifier
    out = shape.out_channels
    output_conv = nn.Conv2d(out, out, 3, padding=1) if shape.output_conv else None
    network = Transformer(
        grid=shape.grid,
        patch_size=shape.patch_size,
        patches=patches,
        embeddings=embeddings,
        trunk=stack,
        masked=masked,
        decoder=decoder,
        head=head,
        output_conv=output_conv,
    )
    heads = [part for part in (network.adapter, network.head) if part is not None]
    blocks = [block for stack in network.stacks().values() for block in stack]
    conditioning.initialise(blocks, heads)
    if trunk.positions == "random":
        assert network.positions_ND is not None
        nn.init.trunc_normal_(network.positions_ND, std=0.02)
    embeddings.initialise()
    # Last, so that the random numbers of all other parts do not depend on it.
    conditioning.initialise_patches(patches)
    if shape.early_head_at:
        # After all others, whose weights are then those of a network without it.
        early = conditioning.head(size, shape.patch_size**2 * shape.out_channels)
        network.add_early_head(early, shape.early_head_at)
        conditioning.initialise([], [early])
    return network


def conditioning_of(shape: TransformerShape) -> Conditioning:
    """The conditioning that a shape names."""
    size, ratio = shape.trunk.hidden_size, shape.trunk.mlp_ratio
    learned = shape.trunk.positions == "random"
    match shape.condition:
        case "adaln":
            return AdaLNZero(
                size,
                ratio,
                shape.num_classes,
                shape.zero_null,
                shape.style,
                shape.class_tokens,
                shape.class_tokens_at,
            )
        case "tokens":
            return InContext(size, ratio, shape.num_classes, learned, shape.style)
        case "none":
            position: Start = "random" if learned else None
            if shape.class_token_position:
                position = "zeros"
            return ClassToken(size, ratio, position, shape.style)
        case _:
            assert_never(shape.condition)


def positions_of(shape: TransformerShape) -> AttentionPositions:
    """What the attention of the trunk knows of positions."""
    trunk = shape.trunk
    if trunk.relative_bias:
        return RelativeOffsets(shape.grid)
    return rotary_positions(shape, trunk.hidden_size // trunk.num_heads)


def rotary_positions(shape: TransformerShape, head_size: int) -> AttentionPositions:
    """What a stack with heads of this size knows of positions, relative bias aside."""
    return Rotary(shape.grid, head_size) if shape.style.rope else NoPositions()


def mirror_skips(depth: int) -> dict[int, int]:
    """Which block each block of the second half takes its skip from: last in, first out.

    An odd depth has a block in the middle without a skip (U-ViT).
    """
    return {depth - 1 - i: i for i in range(depth // 2)}


def _trunk(
    shape: TransformerShape, conditioning: Conditioning, positions: AttentionPositions
) -> Trunk:
    trunk, size = shape.trunk, shape.trunk.hidden_size
    table_ND = None if trunk.positions == "none" else sincos_table(*shape.grid, size)
    own_table_ND = sincos_table(*shape.grid, size) if trunk.decoder_depth else None
    if table_ND is not None and trunk.positions != "fixed":
        table_ND = nn.Parameter(table_ND)
    skips = mirror_skips(trunk.encoder_depth) if trunk.long_skips else {}
    fusing = {*skips, *(range(trunk.encoder_depth, trunk.depth) if trunk.input_skip else ())}
    blocks = [
        conditioning.block(size, trunk.num_heads, positions, i in fusing)
        for i in range(trunk.depth)
    ]
    return Trunk(
        blocks=blocks,
        modulation=conditioning.modulation(size, trunk.depth),
        positions=positions,
        table_ND=table_ND,
        decoder_table_ND=None if own_table_ND is None else nn.Parameter(own_table_ND),
        encoder_depth=trunk.encoder_depth,
        skips=skips,
        input_skip=trunk.input_skip,
    )


def _decoder(
    shape: TransformerShape, conditioning: Conditioning
) -> tuple[Head | PlainHead, NarrowDecoder]:
    decoder, size = shape.decoder, shape.decoder.hidden_size
    positions = rotary_positions(shape, size // decoder.num_heads)
    adapter = conditioning.head(shape.trunk.hidden_size, size)
    table_ND = sincos_table(*shape.grid, size)
    if decoder.subtract_positions:
        table_ND = -table_ND
    blocks = [
        conditioning.block(size, decoder.num_heads, positions, False) for _ in range(decoder.depth)
    ]
    modulation = conditioning.modulation(size, decoder.depth)
    return adapter, NarrowDecoder(table_ND, blocks, modulation, positions)
