"""LightningDiT and JiT written down plainly, on tensors under their official names.

No line is shared with the package: rotations as complex numbers, RMSNorm and SwiGLU by their
equations. Slow on purpose.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu

from tests.reference.transformers import (
    Plain,
    Weights,
    count_of,
    embed_patches,
    patches_to_image,
    positions,
    product,
    time_vector,
)


def rms(w: Weights, name: str, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]


def turned(x: Tensor, side: int) -> Tensor:
    """Heads [B, h, N, C]: rows turn the first half of the channels, columns the second."""
    pairs = x.shape[-1] // 4
    omega = 10000.0 ** (-np.arange(pairs) / pairs)
    angles = [np.concatenate([r * omega, c * omega]) for r in range(side) for c in range(side)]
    factor = torch.polar(torch.ones(1), torch.from_numpy(np.stack(angles)).float())
    numbers = torch.complex(x[..., 0::2], x[..., 1::2]) * factor
    return torch.view_as_real(numbers).flatten(-2)


def attention(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    batch, count, width = x.shape
    qkv = product(w, f"{name}.qkv", x).reshape(batch, count, 3, heads, width // heads)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    if f"{name}.q_norm.weight" in w:
        q, k = rms(w, f"{name}.q_norm", q), rms(w, f"{name}.k_norm", k)
    q, k = turned(q, int(count**0.5)), turned(k, int(count**0.5))
    scores = q @ k.transpose(2, 3) / (width // heads) ** 0.5
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width)
    return product(w, f"{name}.proj", mixed)


def swiglu(w: Weights, name: str, x: Tensor) -> Tensor:
    both = product(w, f"{name}.w12", x)
    half = both.shape[-1] // 2
    gate = both[..., :half]
    return product(w, f"{name}.w3", gate * gate.sigmoid() * both[..., half:])


def embedded(w: Weights, x: Tensor) -> Tensor:
    if "x_embedder.proj.weight" in w:
        return embed_patches(w, "x_embedder.proj", x)
    kernel, second = w["x_embedder.proj1.weight"], w["x_embedder.proj2.weight"]
    narrow = conv2d(x, kernel, stride=kernel.shape[-1])
    return conv2d(narrow, second, w["x_embedder.proj2.bias"]).flatten(2).transpose(1, 2)


def modern(w: Weights, heads: int, patch: int) -> Plain:
    """LightningDiT, or JiT where there are no classes."""

    def forward(x: Tensor, t: Tensor, y: Tensor | None, kept: Tensor | None = None) -> Tensor:
        c = time_vector(w, t)
        if y is not None:
            c = c + w["y_embedder.embedding_table.weight"][y]
        x = embedded(w, x)
        x = x + positions(int(x.shape[1] ** 0.5), x.shape[2])
        for i in range(count_of(w, "blocks")):
            name = f"blocks.{i}"
            six = product(w, f"{name}.adaLN_modulation.1", silu(c))[:, None].chunk(6, dim=-1)
            seen = rms(w, f"{name}.norm1", x) * (1 + six[1]) + six[0]
            x = x + six[2] * attention(w, f"{name}.attn", seen, heads)
            seen = rms(w, f"{name}.norm2", x) * (1 + six[4]) + six[3]
            x = x + six[5] * swiglu(w, f"{name}.mlp", seen)
        two = product(w, "final_layer.adaLN_modulation.1", silu(c))[:, None].chunk(2, dim=-1)
        seen = rms(w, "final_layer.norm_final", x) * (1 + two[1]) + two[0]
        return patches_to_image(product(w, "final_layer.linear", seen), patch)

    return forward
