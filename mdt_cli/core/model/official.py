"""Where each tensor of official DiT, MDT v1 and MDT v2 weights lives in our network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.model.transformer import Transformer


@dataclass(frozen=True)
class Slot:
    """Rows `start:stop` of tensor `name` of our network; the whole tensor where both are None."""

    name: str
    start: int | None = None
    stop: int | None = None


def official_layout(network: Transformer) -> dict[str, Slot]:
    """Official key -> our slot, for every tensor that the official state dict holds.

    Index buffers, which can be derived, are left out. Positions are included, also fixed ones.
    """
    return dict(_layout(network))


def _layout(network: Transformer) -> Iterator[tuple[str, Slot]]:
    depth = len(network.blocks)
    width = network.modulation.linear.out_features // (6 * depth)
    yield from _linear("x_embedder.proj", "patches.conv")
    yield "pos_embed", Slot("positions_ND")
    if network.decoder_positions_ND is not None:
        yield "decoder_pos_embed", Slot("decoder_positions_ND")
    if network.fill is not None and any(True for _ in network.fill.parameters()):
        yield "mask_token", Slot("fill.mask_token")
    yield from _linear("t_embedder.mlp.0", "time.fc1")
    yield from _linear("t_embedder.mlp.2", "time.fc2")
    if network.label is not None:
        yield "y_embedder.embedding_table.weight", Slot("label.table.weight")
    for i, theirs in enumerate(_block_names(network)):
        yield from _block(network, theirs, f"blocks.{i}", "modulation.linear", i * 6 * width)
    if network.interpolator is not None:
        yield from _block(
            network, "sideblocks.0", "interpolator.block", "interpolator.modulation.linear", 0
        )
    yield from _linear("final_layer.linear", "head.linear")
    yield from _linear("final_layer.adaLN_modulation.1", "head.modulation.linear")


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
    network: Transformer, theirs: str, ours: str, modulation: str, row: int
) -> Iterator[tuple[str, Slot]]:
    for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        yield from _linear(f"{theirs}.{part}", f"{ours}.{part}")
    block = network.get_submodule(ours)
    if network.has_relative_bias:
        table = f"{theirs}.attn.rel_pos_bias.relative_position_bias_table"
        yield table, Slot(f"{ours}.attn.bias_table")
    if block.skip is not None:
        yield from _linear(f"{theirs}.skip_linear", f"{ours}.skip")
    width = network.modulation.linear.out_features // (6 * len(network.blocks))
    for kind in ("weight", "bias"):
        slot = Slot(f"{modulation}.{kind}", row, row + 6 * width)
        yield f"{theirs}.adaLN_modulation.1.{kind}", slot


def _linear(theirs: str, ours: str) -> Iterator[tuple[str, Slot]]:
    for kind in ("weight", "bias"):
        yield f"{theirs}.{kind}", Slot(f"{ours}.{kind}")


def to_official(network: Transformer) -> dict[str, Tensor]:
    """The network's tensors under official names and shapes (positions as [1, N, D])."""
    ours = {**dict(network.named_buffers()), **dict(network.named_parameters())}
    result: dict[str, Tensor] = {}
    for key, slot in official_layout(network).items():
        tensor = ours[slot.name].detach()[slot.start : slot.stop]
        result[key] = tensor.unsqueeze(0) if key.endswith("pos_embed") else tensor
    return result


@torch.no_grad()
def from_official(network: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """Copy official tensors into the network. KeyError or RuntimeError where they do not fit."""
    ours = {**dict(network.named_buffers()), **dict(network.named_parameters())}
    for key, slot in official_layout(network).items():
        target = ours[slot.name][slot.start : slot.stop]
        target.copy_(tensors[key].reshape(target.shape))
