"""Where each tensor of official U-ViT and MaskDM weights lives in our network."""

from collections.abc import Iterator
from dataclasses import dataclass

from mdt_cli.core.model.adapters.tensor_map import Slot, TensorMap, linear
from mdt_cli.core.model.transformer import Transformer


@dataclass(frozen=True)
class TokenNames:
    """What the two call alike parts: a prefix of all but the output, positions, the output."""

    prefix: str
    positions: str
    output: str


UVIT = TokenNames(prefix="", positions="pos_embed", output="decoder_pred")
MASKDM = TokenNames(
    prefix="encoder.", positions="encoder.encoder_pos_embed", output="encoder_to_output"
)


def token_layout(network: Transformer, names: TokenNames) -> Iterator[tuple[str, TensorMap]]:
    """Official key -> our tensor."""
    assert network.extras is not None
    prefix = names.prefix
    # Theirs is one table: class, time, then the patches.
    yield (
        names.positions,
        TensorMap((Slot("extras.positions_ED"), Slot("positions_ND")), batched=True),
    )
    yield from linear(f"{prefix}patch_embed.proj", "patches.conv")
    if network.extras.label is not None:
        yield f"{prefix}label_emb.weight", TensorMap((Slot("extras.label.table.weight"),))
    for i, theirs in enumerate(_block_names(len(network.blocks))):
        ours = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            yield from linear(f"{prefix}{theirs}.{norm}", f"{ours}.{norm}")
        yield from linear(f"{prefix}{theirs}.attn.qkv", f"{ours}.attn.qkv", bias=False)
        for part in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            yield from linear(f"{prefix}{theirs}.{part}", f"{ours}.{part}")
        if i in network.skips:
            yield from linear(f"{prefix}{theirs}.skip_linear", f"{ours}.skip")
    yield from linear(f"{prefix}norm", "head.norm")
    yield from linear(names.output, "head.linear")
    if network.output_conv is not None:
        yield from linear(f"{prefix}final_layer", "output_conv")


def _block_names(depth: int) -> list[str]:
    half = depth // 2
    middle = ["mid_block"] if depth % 2 else []
    ins = [f"in_blocks.{i}" for i in range(half)]
    return ins + middle + [f"out_blocks.{i}" for i in range(half)]
