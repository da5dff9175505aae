"""The deterministic weights and inputs on which official code was run for the golden numbers."""

import numpy as np
import torch

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.adapters.dit import from_official, to_official
from mdt_cli.core.model.adapters.uvit import UVIT, TokenNames
from mdt_cli.core.model.transformer import Transformer


def values(shape: tuple[int, ...], seed: int, scale: float) -> torch.Tensor:
    """scale * (((i * 2654435761 + seed * 40503 + 12345) mod 2^32) / 2^32 - 1/2), i row-major."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(seed * 40503 + 12345)) % np.uint64(2**32)
    flat = scale * (mixed.astype(np.float64) / 2**32 - 0.5)
    return torch.from_numpy(flat.astype(np.float32)).reshape(shape)


def fill_synthetically(
    network: Transformer,
    names: TokenNames = UVIT,
    positions: bool = False,
    scales_at_one: bool = False,
) -> None:
    """Every tensor from its official key; position tables stay sin-cos unless `positions`.

    `scales_at_one`: the scales of norms lie around 1.
    """
    tensors = to_official(network, names)
    for key, tensor in tensors.items():
        if positions or not key.endswith("pos_embed"):
            tensors[key] = values(tuple(tensor.shape), sum(map(ord, key)) % 997, 0.25)
            if scales_at_one and "norm" in key:
                tensors[key] += 1
    from_official(network, tensors, names)


def latents(seed: int, batch: int = 2) -> torch.Tensor:
    return values((batch, 4, 32, 32), seed, 4.0)


def subset(batch: int, keep: int, num_tokens: int = 256) -> TokenSubset:
    """The mask of the golden runs: noise ((97 l + 31 b) mod N) / N for token l of sample b."""
    token, sample = np.arange(num_tokens)[None], np.arange(batch)[:, None]
    noise = ((97 * token + 31 * sample) % num_tokens) / num_tokens
    return TokenSubset(torch.from_numpy(noise.argsort(axis=1)[:, :keep].copy()), num_tokens)


def blocks(*places: tuple[int, ...]) -> TokenSubset:
    """For each sample the visible 4 x 4 blocks of a 16 x 16 grid, in raster order (MaskDM)."""
    kept = torch.zeros(len(places), 4, 4, dtype=torch.bool)
    for sample, chosen in enumerate(places):
        for place in chosen:
            kept[sample, place // 4, place % 4] = True
    kept = kept.repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1)
    return TokenSubset(kept.nonzero()[:, 1].view(len(places), -1), 256)
