"""Where each tensor of official LMD weights, a masked autoencoder, lives in our network."""

from collections.abc import Iterator

from mdt_cli.core.model.adapters.tensor_map import Slot, TensorMap, linear
from mdt_cli.core.model.transformer import Transformer


def mae_layout(network: Transformer) -> Iterator[tuple[str, TensorMap]]:
    """Official key -> our tensor. The fixed position tables, which can be derived, are left out."""
    assert network.extras is not None
    assert network.narrow is not None
    yield "cls_token", TensorMap((Slot("extras.class_token"),))
    yield from linear("patch_embed.proj", "patches.conv")
    for i in range(len(network.blocks)):
        yield from _block(f"blocks.{i}", f"blocks.{i}")
    # Their encoder's last norm and the way into the decoder are our adapter.
    yield from linear("norm", "adapter.norm")
    yield from linear("decoder_embed", "adapter.linear")
    if network.fill is not None:
        yield "mask_token", TensorMap((Slot("fill.mask_token"),))
    for i in range(len(network.narrow.blocks)):
        yield from _block(f"decoder_blocks.{i}", f"narrow.blocks.{i}")
    yield from linear("decoder_norm", "head.norm")
    yield from linear("decoder_pred", "head.linear")


def _block(theirs: str, ours: str) -> Iterator[tuple[str, TensorMap]]:
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        yield from linear(f"{theirs}.{part}", f"{ours}.{part}")
