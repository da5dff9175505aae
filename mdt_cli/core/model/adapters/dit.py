"""Where each tensor of official DiT, MDT, MaskDiT, LightningDiT and JiT weights lies in ours.

`uvit.py` has the layouts of networks whose condition is among the tokens, `mae.py` that of the
network without any.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mdt_cli.core.model.adapters.mae import mae_layout
from mdt_cli.core.model.adapters.tensor_map import Slot, TensorMap, linear
from mdt_cli.core.model.adapters.uvit import UVIT, TokenNames, token_layout
from mdt_cli.core.model.embeddings import ExtraTokens
from mdt_cli.core.model.mlp import GatedMlp
from mdt_cli.core.model.transformer import Transformer

# MaskDiT wraps its network in a preconditioner.
MASKDIT_PREFIX = "model."


def official_layout(network: Transformer, names: TokenNames = UVIT) -> dict[str, TensorMap]:
    """Official key -> our tensor, for every tensor that the official state dict holds.

    Index buffers, which can be derived, are left out. Positions are included, also fixed ones.
    `names` distinguishes U-ViT from MaskDM; the DiT family does not read it.
    """
    if isinstance(network.extras, ExtraTokens):
        is_autoencoder = network.extras.class_token is not None
        return dict(mae_layout(network) if is_autoencoder else token_layout(network, names))
    prefix = MASKDIT_PREFIX if network.narrow is not None else ""
    return {prefix + key: found for key, found in _layout(network)}


def _layout(network: Transformer) -> Iterator[tuple[str, TensorMap]]:
    width = network.patches.width
    if network.patches.widen is None:
        yield from linear("x_embedder.proj", "patches.conv")
    else:
        yield from linear("x_embedder.proj1", "patches.conv", bias=False)
        yield from _widening("x_embedder.proj2", "patches.widen")
    yield "pos_embed", TensorMap((Slot("positions_ND"),), batched=True)
    if network.decoder_positions_ND is not None:
        yield "decoder_pos_embed", TensorMap((Slot("decoder_positions_ND"),), batched=True)
    if network.fill is not None and any(True for _ in network.fill.parameters()):
        yield "mask_token", TensorMap((Slot("fill.mask_token"),))
    yield from linear("t_embedder.mlp.0", "time.fc1")
    yield from linear("t_embedder.mlp.2", "time.fc2")
    if network.label is not None:
        # MaskDiT multiplies a one-hot vector with a matrix: our table, transposed.
        turned = network.label.zero_null
        table = TensorMap((Slot("label.table.weight"),), transposed=turned)
        yield "y_embedder.embedding_table.weight", table
    for i, theirs in enumerate(_block_names(network)):
        yield from _block(network, theirs, f"blocks.{i}", "modulation.linear", i, width)
    if network.interpolator is not None:
        ours = "interpolator.modulation.linear"
        yield from _block(network, "sideblocks.0", "interpolator.block", ours, 0, width)
    if network.narrow is not None:
        yield from _narrow(network)
    yield from _norm(network, "final_layer.norm_final", "head.norm")
    yield from linear("final_layer.linear", "head.linear")
    yield from linear("final_layer.adaLN_modulation.1", "head.modulation.linear")


def _narrow(network: Transformer) -> Iterator[tuple[str, TensorMap]]:
    assert network.narrow is not None
    width = network.narrow.positions_ND.shape[1]
    yield "decoder_pos_embed", TensorMap((Slot("narrow.positions_ND"),), batched=True)
    yield from linear("decoder_layer.linear", "adapter.linear")
    yield from linear("decoder_layer.adaLN_modulation.1", "adapter.modulation.linear")
    for i in range(len(network.narrow.blocks)):
        theirs, ours = f"decoder_blocks.{i}", f"narrow.blocks.{i}"
        yield from _block(network, theirs, ours, "narrow.modulation.linear", i, width)


def _block_names(network: Transformer) -> list[str]:
    depth, encoder = len(network.blocks), network.encoder_depth
    if not network.skips and not network.input_skip:
        return [f"blocks.{i}" for i in range(depth)]
    half = encoder // 2
    return [
        *(f"en_inblocks.{i}" for i in range(half)),
        *(f"en_outblocks.{i}" for i in range(encoder - half)),
        *(f"de_blocks.{i}" for i in range(depth - encoder)),
    ]


def _block(
    network: Transformer, theirs: str, ours: str, modulation: str, index: int, width: int
) -> Iterator[tuple[str, TensorMap]]:
    """`index`: the block's position in the one matrix that modulates all blocks of its stack."""
    block = network.get_submodule(ours)
    gated = isinstance(block.mlp, GatedMlp)
    inner, outer = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    yield from linear(f"{theirs}.attn.qkv", f"{ours}.attn.qkv")
    yield from linear(f"{theirs}.attn.proj", f"{ours}.attn.proj")
    yield from linear(f"{theirs}.{inner}", f"{ours}.mlp.fc1")
    yield from linear(f"{theirs}.{outer}", f"{ours}.mlp.fc2")
    for norm in ("norm1", "norm2"):
        yield from _norm(network, f"{theirs}.{norm}", f"{ours}.{norm}")
    if block.get_submodule("attn").q_norm is not None:
        for norm in ("attn.q_norm", "attn.k_norm"):
            yield from _norm(network, f"{theirs}.{norm}", f"{ours}.{norm}")
    if block.get_submodule("attn").bias_table is not None:
        table = f"{theirs}.attn.rel_pos_bias.relative_position_bias_table"
        yield table, TensorMap((Slot(f"{ours}.attn.bias_table"),))
    if block.skip is not None:
        yield from linear(f"{theirs}.skip_linear", f"{ours}.skip")
    rows = 6 * width
    for kind in ("weight", "bias"):
        slot = Slot(f"{modulation}.{kind}", index * rows, (index + 1) * rows)
        yield f"{theirs}.adaLN_modulation.1.{kind}", TensorMap((slot,))


def _norm(network: Transformer, theirs: str, ours: str) -> Iterator[tuple[str, TensorMap]]:
    """The scale of an RMSNorm; a LayerNorm in front of a modulation has no parameters."""
    if isinstance(network.get_submodule(ours), nn.RMSNorm):
        yield f"{theirs}.weight", TensorMap((Slot(f"{ours}.weight"),))


def _widening(theirs: str, ours: str) -> Iterator[tuple[str, TensorMap]]:
    """Their convolution of 1 x 1 is our Linear."""
    yield f"{theirs}.weight", TensorMap((Slot(f"{ours}.weight"),), pixelwise=True)
    yield f"{theirs}.bias", TensorMap((Slot(f"{ours}.bias"),))


def to_official(network: Transformer, names: TokenNames = UVIT) -> dict[str, Tensor]:
    """The network's tensors under official names and in official shapes."""
    ours = _tensors(network)
    return {
        key: found.to_theirs([ours[slot.name].detach()[slot.rows] for slot in found.slots])
        for key, found in official_layout(network, names).items()
    }


@torch.no_grad()
def from_official(
    network: Transformer, tensors: Mapping[str, Tensor], names: TokenNames = UVIT
) -> None:
    """Copy official tensors into the network. KeyError or RuntimeError where they do not fit."""
    ours = _tensors(network)
    for key, found in official_layout(network, names).items():
        targets = [ours[slot.name][slot.rows] for slot in found.slots]
        for target, part in zip(targets, found.to_ours(tensors[key], targets), strict=True):
            target.copy_(part)


def _tensors(network: Transformer) -> dict[str, Tensor]:
    return {**dict(network.named_buffers()), **dict(network.named_parameters())}
