"""Official state dicts, restated from their published key tables: names, shapes, synthetic values.

Nothing here knows our network; an importer that reads these reads the official files.
"""

import numpy as np
import torch

from tests.golden.synthetic import values

Shapes = dict[str, tuple[int, ...]]
State = dict[str, torch.Tensor]


def linear(name: str, out: int, size: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, size)} | ({f"{name}.bias": (out,)} if bias else {})


def adaln_block(
    name: str, width: int, condition: int, heads: int = 0, grid: int = 0, skip: bool = False
) -> Shapes:
    """`heads` and `grid` where there is a relative bias."""
    shapes = linear(f"{name}.attn.qkv", 3 * width, width)
    if heads:
        bias = f"{name}.attn.rel_pos_bias."
        shapes[f"{bias}relative_position_bias_table"] = ((2 * grid - 1) ** 2 + 3, heads)
        shapes[f"{bias}relative_position_index"] = (grid * grid, grid * grid)
    shapes |= linear(f"{name}.attn.proj", width, width)
    shapes |= linear(f"{name}.mlp.fc1", 4 * width, width)
    shapes |= linear(f"{name}.mlp.fc2", width, 4 * width)
    shapes |= linear(f"{name}.adaLN_modulation.1", 6 * width, condition)
    return shapes | (linear(f"{name}.skip_linear", width, 2 * width) if skip else {})


def adaln_ends(width: int, grid: int, patch: int, channels: int, last: int, out: int) -> Shapes:
    """Everything of DiT but label table and blocks; `last` is the width of the final layer."""
    return {
        "pos_embed": (1, grid * grid, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        **linear("t_embedder.mlp.0", width, 256),
        **linear("t_embedder.mlp.2", width, width),
        **linear("final_layer.linear", patch * patch * out, last),
        **linear("final_layer.adaLN_modulation.1", 2 * last, width),
    }


def dit(
    width: int = 32,
    depth: int = 3,
    grid: int = 4,
    classes: int = 3,
    patch: int = 2,
    channels: int = 4,
) -> Shapes:
    shapes = adaln_ends(width, grid, patch, channels, width, 2 * channels)
    shapes["y_embedder.embedding_table.weight"] = (classes + 1, width)
    for i in range(depth):
        shapes |= adaln_block(f"blocks.{i}", width, width)
    return shapes


def mdt(
    width: int = 32,
    depth: int = 3,
    heads: int = 2,
    grid: int = 4,
    classes: int = 3,
    channels: int = 4,
    decoder: int = 0,
) -> Shapes:
    """MDT v2 where `decoder` is given, else v1, which does not say how deep its decoder is."""
    shapes = adaln_ends(width, grid, 2, channels, width, 2 * channels)
    shapes["y_embedder.embedding_table.weight"] = (classes + 1, width)
    shapes |= {"decoder_pos_embed": (1, grid * grid, width), "mask_token": (1, 1, width)}
    half = (depth - decoder) // 2
    lists = (
        [("en_inblocks", half, False), ("en_outblocks", half, True), ("de_blocks", decoder, True)]
        if decoder
        else [("blocks", depth, False)]
    )
    for name, count, skip in [*lists, ("sideblocks", 1, False)]:
        for i in range(count):
            shapes |= adaln_block(f"{name}.{i}", width, width, heads, grid, skip)
    return shapes


def maskdit(
    width: int = 32,
    depth: int = 2,
    grid: int = 4,
    classes: int = 3,
    narrow: int = 16,
    narrow_depth: int = 2,
    channels: int = 4,
) -> Shapes:
    shapes = adaln_ends(width, grid, 2, channels, narrow, channels)
    shapes["y_embedder.embedding_table.weight"] = (width, classes)
    shapes |= {"decoder_pos_embed": (1, grid * grid, narrow), "mask_token": (1, 1, narrow)}
    shapes |= linear("decoder_layer.linear", narrow, width)
    shapes |= linear("decoder_layer.adaLN_modulation.1", 2 * width, width)
    for i in range(depth):
        shapes |= adaln_block(f"blocks.{i}", width, width)
    for i in range(narrow_depth):
        shapes |= adaln_block(f"decoder_blocks.{i}", narrow, width)
    return {f"model.{name}": shape for name, shape in shapes.items()}


def token_blocks(prefix: str, width: int, halves: int) -> Shapes:
    shapes: Shapes = {}
    names = [f"in_blocks.{i}" for i in range(halves)] + ["mid_block"]
    for name in [*names, *(f"out_blocks.{i}" for i in range(halves))]:
        here = f"{prefix}{name}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{here}.{norm}.weight": (width,), f"{here}.{norm}.bias": (width,)}
        shapes |= linear(f"{here}.attn.qkv", 3 * width, width, bias=False)
        shapes |= linear(f"{here}.attn.proj", width, width)
        shapes |= linear(f"{here}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{here}.mlp.fc2", width, 4 * width)
        if name.startswith("out"):
            shapes |= linear(f"{here}.skip_linear", width, 2 * width)
    return shapes


def uvit(
    width: int = 32,
    halves: int = 2,
    grid: int = 4,
    classes: int = 3,
    patch: int = 2,
    channels: int = 4,
    conv: bool = True,
) -> Shapes:
    extras = 2 if classes else 1
    shapes: Shapes = {
        "pos_embed": (1, extras + grid * grid, width),
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    if classes:
        shapes["label_emb.weight"] = (classes + 1, width)
    shapes |= token_blocks("", width, halves)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= linear("decoder_pred", patch * patch * channels, width)
    if conv:
        shapes |= {"final_layer.weight": (channels, channels, 3, 3)}
        shapes |= {"final_layer.bias": (channels,)}
    return shapes


def maskdm(width: int = 32, halves: int = 2, grid: int = 4, patch: int = 4) -> Shapes:
    shapes: Shapes = {
        "encoder.encoder_pos_embed": (1, 1 + grid * grid, width),
        "encoder.patch_embed.proj.weight": (width, 3, patch, patch),
        "encoder.patch_embed.proj.bias": (width,),
    }
    shapes |= token_blocks("encoder.", width, halves)
    shapes |= {"encoder.norm.weight": (width,), "encoder.norm.bias": (width,)}
    return shapes | linear("encoder_to_output", patch * patch * 3, width)


def filled(shapes: Shapes, fixed_positions: bool = True) -> State:
    """Synthetic values by key; the DiT family keeps its sin-cos tables."""
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("relative_position_index"):
            state[name] = relative_index(int(shape[0] ** 0.5))
        elif fixed_positions and name.endswith("pos_embed"):
            state[name] = sincos(shape)
        else:
            state[name] = values(shape, sum(map(ord, name)) % 997, 0.25)
    return state


def sincos(shape: tuple[int, ...]) -> torch.Tensor:
    """MAE's table with numpy: half of the channels for the column, half for the row."""
    _, count, width = shape
    side = int(count**0.5)
    table = np.zeros((count, width))
    for token in range(count):
        for half, position in enumerate((token % side, token // side)):
            for k in range(width // 4):
                angle = position / 10000 ** (k / (width / 4))
                start = half * (width // 2)
                table[token, start + k] = np.sin(angle)
                table[token, start + width // 4 + k] = np.cos(angle)
    return torch.from_numpy(table.astype(np.float32)).unsqueeze(0)


def relative_index(side: int) -> torch.Tensor:
    rows, columns = np.divmod(np.arange(side * side), side)
    down = rows[:, None] - rows[None] + side - 1
    right = columns[:, None] - columns[None] + side - 1
    return torch.from_numpy(down * (2 * side - 1) + right)
