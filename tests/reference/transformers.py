"""The published networks written down plainly, on tensors under their official names.

No line is shared with the package: one modulation product per block, softmax attention in the
open with the bias of kept tokens cut out of the whole one, tokens in the order they were drawn
and put back one sample after the other. Slow on purpose.
"""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, silu

Weights = Mapping[str, Tensor]
# (latents, time as the network reads it, labels, kept tokens [B, K] or None) -> raw answer
Plain = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def product(w: Weights, name: str, x: Tensor) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()


def affine_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def waves(t: Tensor, size: int) -> Tensor:
    k = torch.arange(size // 2, dtype=torch.float32)
    angle = t[:, None].float() * torch.exp(-np.log(10000.0) * k / (size // 2))
    return torch.cat([angle.cos(), angle.sin()], 1)


def positions(side: int, width: int) -> Tensor:
    """Columns first, sines before cosines; one token at a time."""
    omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows = []
    for row in range(side):
        for column in range(side):
            parts = [f(at * omega) for at in (column, row) for f in (np.sin, np.cos)]
            rows.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(rows)).float()


def embed_patches(w: Weights, name: str, x: Tensor) -> Tensor:
    kernel = w[f"{name}.weight"]
    return conv2d(x, kernel, w[f"{name}.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)


def patches_to_image(tokens: Tensor, patch: int) -> Tensor:
    """[B, N, p p C] with channels fastest, on a square grid."""
    batch, count, values = tokens.shape
    side, channels = int(count**0.5), values // patch**2
    image = tokens.new_zeros(batch, channels, side * patch, side * patch)
    for n in range(count):
        block = tokens[:, n].reshape(batch, patch, patch, channels).permute(0, 3, 1, 2)
        top, left = n // side * patch, n % side * patch
        image[:, :, top : top + patch, left : left + patch] = block
    return image


def pick(x: Tensor, kept: Tensor | None) -> Tensor:
    return x if kept is None else torch.stack([a[k] for a, k in zip(x, kept, strict=True)])


def unshuffle(x: Tensor, kept: Tensor, stand_in: Tensor, count: int) -> Tensor:
    """Kept tokens back in their places, `stand_in` elsewhere."""
    whole = stand_in.expand(len(x), count, -1).clone()
    for sample, places in enumerate(kept):
        whole[sample, places] = x[sample]
    return whole


def attention(w: Weights, name: str, x: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    batch, count, width = x.shape
    qkv = product(w, f"{name}.qkv", x).reshape(batch, count, 3, heads, width // heads)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5
    if bias is not None:
        scores = scores + bias
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width)
    return product(w, f"{name}.proj", mixed)


def mlp(w: Weights, name: str, x: Tensor, approximate: str) -> Tensor:
    return product(w, f"{name}.fc2", gelu(product(w, f"{name}.fc1", x), approximate=approximate))


@cache
def offsets(side: int) -> Tensor:
    """The table's row for each pair of tokens, one pair after the other."""
    at = [divmod(n, side) for n in range(side * side)]
    rows = [
        [(a - c + side - 1) * (2 * side - 1) + (b - d + side - 1) for c, d in at] for a, b in at
    ]
    return torch.tensor(rows)


def offset_bias(w: Weights, name: str, side: int, kept: Tensor | None) -> Tensor | None:
    """[1 or B, h, N, N]: the bias of every pair of tokens; rows and columns of the kept ones."""
    table = w.get(f"{name}.attn.rel_pos_bias.relative_position_bias_table")
    if table is None:
        return None
    whole = table[offsets(side)].permute(2, 0, 1)
    if kept is None:
        return whole[None]
    return torch.stack([whole[:, places][:, :, places] for places in kept])


def adaln_block(
    w: Weights, name: str, x: Tensor, c: Tensor, heads: int, bias: Tensor | None = None
) -> Tensor:
    six = product(w, f"{name}.adaLN_modulation.1", silu(c))[:, None].chunk(6, dim=-1)
    shift, scale, gate = six[:3]
    x = x + gate * attention(w, f"{name}.attn", norm(x) * (1 + scale) + shift, heads, bias)
    shift, scale, gate = six[3:]
    return x + gate * mlp(w, f"{name}.mlp", norm(x) * (1 + scale) + shift, "tanh")


def modulated(w: Weights, name: str, x: Tensor, c: Tensor) -> Tensor:
    shift, scale = product(w, f"{name}.adaLN_modulation.1", silu(c))[:, None].chunk(2, dim=-1)
    return product(w, f"{name}.linear", norm(x) * (1 + scale) + shift)


def fuse(w: Weights, name: str, x: Tensor, skip: Tensor) -> Tensor:
    return product(w, f"{name}.skip_linear", torch.cat([x, skip], -1))


def count_of(w: Weights, name: str) -> int:
    return len({key.split(".")[len(name.split("."))] for key in w if key.startswith(f"{name}.")})


def time_vector(w: Weights, t: Tensor) -> Tensor:
    read = waves(t, 256).to(w["t_embedder.mlp.0.weight"].dtype)
    inner = silu(product(w, "t_embedder.mlp.0", read))
    return product(w, "t_embedder.mlp.2", inner)


def mdt(w: Weights, heads: int, patch: int, decoder: int) -> Plain:
    """DiT (decoder 0), MDT v1 and, where the names say so, MDT v2."""

    def forward(x: Tensor, t: Tensor, y: Tensor | None, kept: Tensor | None = None) -> Tensor:
        side = x.shape[-1] // patch
        c = time_vector(w, t) + w["y_embedder.embedding_table.weight"][y]
        table = positions(side, w["x_embedder.proj.bias"].numel())
        # A trained table starts as the fixed one; the golden weights leave it there.
        whole = embed_patches(w, "x_embedder.proj", x) + (w["pos_embed"] if decoder else table)
        x = pick(whole, kept)

        def block(name: str, x: Tensor, among: Tensor | None) -> Tensor:
            return adaln_block(w, name, x, c, heads, offset_bias(w, name, side, among))

        ins, outs = count_of(w, "en_inblocks"), count_of(w, "en_outblocks")
        if ins:
            skips = []
            for i in range(ins):
                x = block(f"en_inblocks.{i}", x, kept)
                skips.append(x)
            for i in range(outs):
                x = block(f"en_outblocks.{i}", fuse(w, f"en_outblocks.{i}", x, skips.pop()), kept)
            late = [f"de_blocks.{i}" for i in range(decoder)]
        else:
            depth = count_of(w, "blocks")
            for i in range(depth - decoder):
                x = block(f"blocks.{i}", x, kept)
            late = [f"blocks.{i}" for i in range(depth - decoder, depth)]
        if kept is not None:
            hidden = torch.ones(whole.shape[:2], dtype=torch.bool).scatter(1, kept, False)
            q = unshuffle(x, kept, w["mask_token"], side * side) + w["decoder_pos_embed"]
            x = hidden[..., None] * block("sideblocks.0", q, None) + ~hidden[..., None] * q
        elif decoder:
            x = x + w["decoder_pos_embed"]
        for name in late:
            x = block(name, fuse(w, name, x, whole) if ins else x, None)
        return patches_to_image(modulated(w, "final_layer", x, c), patch)

    return forward


def without_prefix(w: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): tensor for key, tensor in w.items()}


def maskdit_condition(w: Weights, t: Tensor, y: Tensor) -> Tensor:
    """The label is a one-hot vector with a zero in every place for "no class"."""
    matrix = w["y_embedder.embedding_table.weight"]
    one_hot = torch.eye(matrix.shape[1] + 1)[:, :-1][y].to(matrix)
    return time_vector(w, t) + one_hot @ matrix.T


def maskdit_encode(w: Weights, heads: int, x: Tensor, c: Tensor, kept: Tensor | None) -> Tensor:
    """Kept tokens through the encoder and the adapter."""
    tokens = embed_patches(w, "x_embedder.proj", x)
    tokens = pick(tokens + positions(int(tokens.shape[1] ** 0.5), tokens.shape[2]), kept)
    for i in range(count_of(w, "blocks")):
        tokens = adaln_block(w, f"blocks.{i}", tokens, c, heads)
    return modulated(w, "decoder_layer", tokens, c)


def maskdit_decode(w: Weights, heads: int, tokens: Tensor, c: Tensor, patch: int) -> Tensor:
    tokens = tokens + positions(int(tokens.shape[1] ** 0.5), tokens.shape[2])
    for i in range(count_of(w, "decoder_blocks")):
        tokens = adaln_block(w, f"decoder_blocks.{i}", tokens, c, heads)
    return patches_to_image(modulated(w, "final_layer", tokens, c), patch)


def maskdit(prefixed: Weights, heads: int, narrow_heads: int, patch: int) -> Plain:
    """The network inside the preconditioner."""
    w = without_prefix(prefixed, "model.")

    def forward(x: Tensor, t: Tensor, y: Tensor | None, kept: Tensor | None = None) -> Tensor:
        assert y is not None
        c = maskdit_condition(w, t, y)
        tokens = maskdit_encode(w, heads, x, c, kept)
        if kept is not None:
            tokens = unshuffle(tokens, kept, w["mask_token"], (x.shape[-1] // patch) ** 2)
        return maskdit_decode(w, narrow_heads, tokens, c, patch)

    return forward


def plain_block(w: Weights, name: str, x: Tensor, heads: int, eps: float) -> Tensor:
    x = x + attention(w, f"{name}.attn", affine_norm(w, f"{name}.norm1", x, eps), heads)
    return x + mlp(w, f"{name}.mlp", affine_norm(w, f"{name}.norm2", x, eps), "none")


def uvit(prefixed: Weights, heads: int, patch: int) -> Plain:
    """U-ViT and MaskDM. Hidden patches are zero in the answer, as the network drops them."""
    w = without_prefix(prefixed, "encoder.")
    table = w["pos_embed"] if "pos_embed" in w else w["encoder_pos_embed"]
    output = "decoder_pred" if "decoder_pred.weight" in w else "encoder_to_output"

    def forward(x: Tensor, t: Tensor, y: Tensor | None, kept: Tensor | None = None) -> Tensor:
        patches = embed_patches(w, "patch_embed.proj", x)
        count, width = patches.shape[1:]
        front = [waves(t, width)[:, None]]
        if "label_emb.weight" in w:
            front.insert(0, w["label_emb.weight"][y][:, None])
        extras = len(front)
        tokens = torch.cat([*front, patches], 1) + table
        if kept is not None:
            always = torch.arange(extras).expand(len(x), -1)
            tokens = pick(tokens, torch.cat([always, kept + extras], 1))
        skips = []
        for i in range(count_of(w, "in_blocks")):
            tokens = plain_block(w, f"in_blocks.{i}", tokens, heads, 1e-5)
            skips.append(tokens)
        tokens = plain_block(w, "mid_block", tokens, heads, 1e-5)
        for i in range(count_of(w, "out_blocks")):
            name = f"out_blocks.{i}"
            tokens = plain_block(w, name, fuse(w, name, tokens, skips.pop()), heads, 1e-5)
        tokens = product(w, output, affine_norm(w, "norm", tokens, 1e-5))[:, extras:]
        if kept is not None:
            tokens = unshuffle(tokens, kept, tokens.new_zeros(1, 1, tokens.shape[2]), count)
        image = patches_to_image(tokens, patch)
        if "final_layer.weight" in w:
            image = conv2d(image, w["final_layer.weight"], w["final_layer.bias"], padding=1)
        return image

    return forward


def lmd(w: Weights, heads: int, narrow_heads: int, patch: int) -> Plain:
    """A masked autoencoder whose decoder subtracts its positions; the class token has none."""

    def forward(x: Tensor, t: Tensor, y: Tensor | None, kept: Tensor | None = None) -> Tensor:
        side = x.shape[-1] // patch
        tokens = embed_patches(w, "patch_embed.proj", x)
        tokens = pick(tokens + positions(side, tokens.shape[2]), kept)
        tokens = torch.cat([w["cls_token"].expand(len(x), -1, -1), tokens], 1)
        for i in range(count_of(w, "blocks")):
            tokens = plain_block(w, f"blocks.{i}", tokens, heads, 1e-6)
        tokens = product(w, "decoder_embed", affine_norm(w, "norm", tokens, 1e-6))
        first, rest = tokens[:, :1], tokens[:, 1:]
        if kept is not None:
            rest = unshuffle(rest, kept, w["mask_token"], side * side)
        tokens = torch.cat([first, rest - positions(side, rest.shape[2])], 1)
        for i in range(count_of(w, "decoder_blocks")):
            tokens = plain_block(w, f"decoder_blocks.{i}", tokens, narrow_heads, 1e-6)
        tokens = product(w, "decoder_pred", affine_norm(w, "decoder_norm", tokens, 1e-6))
        return patches_to_image(tokens[:, 1:], patch)

    return forward
