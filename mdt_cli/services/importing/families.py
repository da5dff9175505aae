"""The official layouts that can be imported, and how each determines its network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mdt_cli.core.model.adapters.dit import MASKDIT_PREFIX
from mdt_cli.core.model.adapters.uvit import MASKDM, UVIT, TokenNames
from mdt_cli.errors import MdtError
from mdt_cli.services.importing.shapes import (
    HEADS,
    NARROW_HEADS,
    Asked,
    Assumed,
    Seen,
    Shapes,
    Value,
)

UVIT_H_WIDTH = 1152


@dataclass(frozen=True)
class Family:
    """`marks`: starts of names that the layout has; `others`: those that it never has.

    inside: prefix of every name in a container; `prefix`: the part of it that the layout has too.
    """

    title: str
    preset: str
    marks: tuple[str, ...]
    others: tuple[str, ...]
    see: Callable[[Shapes, Asked], Seen]
    inside: str = ""
    prefix: str = ""
    names: TokenNames = UVIT


def _see_adaln(shapes: Shapes, asked: Asked, first: str, depth: int) -> Seen:
    """What DiT and the layouts built on it share; `first` is the name of the first block."""
    width, channels, patch_size, _ = shapes.of("x_embedder.proj.weight", 4)
    side = shapes.grid(shapes.of("pos_embed", 3)[1]) * patch_size
    keys: dict[str, Value] = {
        "model.condition": "adaln",
        "model.patch_size": patch_size,
        "model.hidden_size": width,
        "model.depth": depth,
        "model.mlp_ratio": shapes.of(f"{first}.mlp.fc1.weight", 2)[0] / width,
        "data.conditional": True,
    }
    assumed: dict[str, Assumed] = {}
    table = f"{first}.attn.rel_pos_bias.relative_position_bias_table"
    keys["model.relative_bias"] = table in shapes.tensors
    if table in shapes.tensors:
        keys["model.num_heads"] = shapes.of(table, 2)[1]
    else:
        assumed["model.num_heads"] = shapes.heads(width, asked.num_heads, "model.num_heads", HEADS)
    return Seen(keys, assumed, (channels, side, side), 0)


def _with_labels(shapes: Shapes, asked: Asked, seen: Seen) -> Seen:
    """With the classes of the label table (its last row is the null class) and the variance."""
    rows = shapes.of("y_embedder.embedding_table.weight", 2)[0]
    inputs = int(seen.keys["model.patch_size"]) ** 2 * seen.latent_shape[0]
    multiple = shapes.multiple(shapes.of("final_layer.linear.weight", 2)[0], inputs)
    keys = {**seen.keys, "objective.learned_variance": multiple == 2}
    return replace(seen, keys=keys, num_classes=rows - asked.null_row)


def see_dit(shapes: Shapes, asked: Asked) -> Seen:
    """DiT; its positions are the fixed table unless they were trained."""
    seen = _see_adaln(shapes, asked, "blocks.0", shapes.count("blocks"))
    seen = _with_labels(shapes, asked, seen)
    positions = "fixed" if shapes.has_fixed_positions("pos_embed") else "learned"
    return replace(seen, keys={**seen.keys, "model.positions": positions})


def see_mdt(shapes: Shapes, asked: Asked) -> Seen:
    """MDT v1: one list of blocks; `asked` has how many of the last are the decoder."""
    depth = shapes.count("blocks")
    if asked.decoder_depth is None:
        raise MdtError(
            f"{shapes.what} does not store how many of its {depth} blocks are the decoder, and a "
            "wrong number would load without an error",
            "the published weights have 2: add --decoder-depth 2",
        )
    if not 0 < asked.decoder_depth < depth:
        raise MdtError(
            f"--decoder-depth {asked.decoder_depth} does not fit {depth} blocks",
            f"expected 1 to {depth - 1}",
        )
    seen = _with_labels(shapes, asked, _see_adaln(shapes, asked, "blocks.0", depth))
    return _with_decoder(seen, asked.decoder_depth, skips=False)


def see_mdtv2(shapes: Shapes, asked: Asked) -> Seen:
    """MDT v2: three lists of blocks determine the depths."""
    first, second, last = map(shapes.count, ("en_inblocks", "en_outblocks", "de_blocks"))
    if first != second or not last:
        raise MdtError(
            f"{shapes.what} has {first} en_inblocks, {second} en_outblocks and {last} de_blocks; "
            "MDT v2 has as many en_inblocks as en_outblocks, and at least one de_block"
        )
    seen = _see_adaln(shapes, asked, "en_inblocks.0", first + second + last)
    return _with_decoder(_with_labels(shapes, asked, seen), last, skips=True)


def _with_decoder(seen: Seen, depth: int, skips: bool) -> Seen:
    keys = {
        **seen.keys,
        "model.positions": "learned",
        "model.decoder_depth": depth,
        "model.long_skips": skips,
        "model.input_skip": skips,
        "masking.restore_at": -depth,
    }
    return replace(seen, keys=keys)


def see_maskdit(shapes: Shapes, asked: Asked) -> Seen:
    """MaskDiT: DiT with a narrow decoder; its label matrix has no column for the null class."""
    seen = _see_adaln(shapes, asked, "blocks.0", shapes.count("blocks"))
    narrow = shapes.of("decoder_layer.linear.weight", 2)[0]
    inputs = int(seen.keys["model.patch_size"]) ** 2 * seen.latent_shape[0]
    if shapes.multiple(shapes.of("final_layer.linear.weight", 2)[0], inputs) == 2:
        raise MdtError(f"{shapes.what} has a learned variance; MaskDiT does not")
    keys = {
        **seen.keys,
        "model.positions": "fixed",
        "model.null_label": "zeros",
        "model.narrow_decoder.depth": shapes.count("decoder_blocks"),
        "model.narrow_decoder.hidden_size": narrow,
    }
    heads = "model.narrow_decoder.num_heads"
    assumed = {**seen.assumed, heads: shapes.heads(narrow, asked.narrow_heads, heads, NARROW_HEADS)}
    num_classes = shapes.of("y_embedder.embedding_table.weight", 2)[1]
    return replace(seen, keys=keys, assumed=assumed, num_classes=num_classes)


def _see_tokens(shapes: Shapes, asked: Asked, names: TokenNames) -> Seen:
    """U-ViT and MaskDM: time and class are tokens; in_blocks, mid_block, out_blocks."""
    start = names.prefix
    width, channels, patch_size, _ = shapes.of(f"{start}patch_embed.proj.weight", 4)
    label = f"{start}label_emb.weight"
    num_classes = shapes.of(label, 2)[0] - asked.null_row if label in shapes.tensors else 0
    extras = 2 if num_classes else 1
    first, last = shapes.count(f"{start}in_blocks"), shapes.count(f"{start}out_blocks")
    middle = any(name.startswith(f"{start}mid_block.") for name in shapes.tensors)
    if first != last or not middle:
        raise MdtError(
            f"{shapes.what} has {first} in_blocks, {int(middle)} mid_block and {last} out_blocks; "
            "expected one mid_block, and as many in_blocks as out_blocks"
        )
    outputs = shapes.of(f"{names.output}.weight", 2)[0]
    keys: dict[str, Value] = {
        "model.condition": "tokens",
        "model.positions": "random",
        "model.long_skips": True,
        "model.patch_size": patch_size,
        "model.hidden_size": width,
        "model.depth": first + 1 + last,
        "model.mlp_ratio": shapes.of(f"{start}mid_block.mlp.fc1.weight", 2)[0] / width,
        "model.output_conv": f"{start}final_layer.weight" in shapes.tensors,
        "objective.learned_variance": shapes.multiple(outputs, patch_size**2 * channels) == 2,
        "data.conditional": num_classes > 0,
    }
    heads = shapes.heads(width, asked.num_heads, "model.num_heads", HEADS)
    side = shapes.grid(shapes.of(names.positions, 3)[1] - extras) * patch_size
    return Seen(keys, {"model.num_heads": heads}, (channels, side, side), num_classes)


def see_uvit(shapes: Shapes, asked: Asked) -> Seen:
    """U-ViT: H has Stable Diffusion's betas; the other sizes were trained in continuous time."""
    seen = _see_tokens(shapes, asked, UVIT)
    width = int(seen.keys["model.hidden_size"])
    is_h = width == UVIT_H_WIDTH
    why = "published for H" if is_h else "published for all sizes except H, in continuous time"
    custom = Assumed("scaled_linear" if is_h else "linear", why)
    return replace(seen, assumed={**seen.assumed, "objective.betas": custom})


def see_maskdm(shapes: Shapes, asked: Asked) -> Seen:
    """MaskDM; its training dicts store the betas with the network."""
    seen = _see_tokens(shapes, asked, MASKDM)
    found = shapes.betas()
    if found is None:
        custom = Assumed("linear", "published for CelebA and LSUN; CelebA-HQ has cosine")
        return replace(seen, assumed={**seen.assumed, "objective.betas": custom})
    steps: dict[str, Any] = {"objective.betas": found[0], "objective.num_timesteps": found[1]}
    return replace(seen, keys={**seen.keys, **steps})


FAMILIES: dict[str, Family] = {
    "dit": Family(
        title="DiT",
        preset="dit",
        marks=("x_embedder.", "blocks.", "final_layer."),
        others=("sideblocks.", "en_inblocks.", "decoder_layer.", "decoder_pos_embed"),
        see=see_dit,
    ),
    "mdt": Family(
        title="MDT v1",
        preset="mdt",
        marks=("x_embedder.", "blocks.", "sideblocks."),
        others=("en_inblocks.", "decoder_layer."),
        see=see_mdt,
    ),
    "mdtv2": Family(
        title="MDT v2",
        preset="mdtv2",
        marks=("x_embedder.", "en_inblocks.", "de_blocks."),
        others=("decoder_layer.",),
        see=see_mdtv2,
    ),
    "maskdit": Family(
        title="MaskDiT",
        preset="maskdit",
        marks=("x_embedder.", "blocks.", "decoder_layer."),
        others=("sideblocks.", "en_inblocks."),
        see=see_maskdit,
        inside=MASKDIT_PREFIX,
        prefix=MASKDIT_PREFIX,
    ),
    "uvit": Family(
        title="U-ViT",
        preset="uvit",
        marks=("patch_embed.", "in_blocks.", "mid_block.", "decoder_pred."),
        others=("x_embedder.", "encoder."),
        see=see_uvit,
    ),
    "maskdm": Family(
        title="MaskDM",
        preset="maskdm",
        marks=("encoder.patch_embed.", "encoder.in_blocks.", "encoder_to_output."),
        others=("x_embedder.", "decoder_pred."),
        see=see_maskdm,
        inside="model.",
        names=MASKDM,
    ),
}


def has_layout(family: Family, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of this layout, with or without its prefix in a container."""

    def has(mark: str) -> bool:
        return any(name.startswith((mark, family.inside + mark)) for name in tensors)

    return all(map(has, family.marks)) and not any(map(has, family.others))


def check_family(family: Family, tensors: Mapping[str, Tensor], path: str) -> None:
    """MdtError where the tensors have another layout; it names that layout where it is known."""
    if has_layout(family, tensors):
        return
    found = next((name for name, other in FAMILIES.items() if has_layout(other, tensors)), None)
    if found is not None:
        raise MdtError(
            f"{path} has the layout of {FAMILIES[found].title}, not of {family.title}",
            f"use --family {found}",
        )
    shown = ", ".join(list(tensors)[:3])
    raise MdtError(
        f"{path} does not have the layout of {family.title}: found {shown}; expected names that "
        f"start with {' '.join(family.marks)}",
        "give the official weights with their names unchanged",
    )
