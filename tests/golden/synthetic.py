"""The deterministic weights and inputs on which official code was run for the golden numbers."""

import numpy as np
import torch

from mdt_cli.core.model.official import from_official, to_official
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.tokens import TokenSubset


def values(shape: tuple[int, ...], seed: int, scale: float) -> torch.Tensor:
    """scale * (((i * 2654435761 + seed * 40503 + 12345) mod 2^32) / 2^32 - 1/2), i row-major."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(seed * 40503 + 12345)) % np.uint64(2**32)
    flat = scale * (mixed.astype(np.float64) / 2**32 - 0.5)
    return torch.from_numpy(flat.astype(np.float32)).reshape(shape)


def fill_synthetically(network: Transformer) -> None:
    """Every tensor from its official key; position tables stay sin-cos."""
    tensors = to_official(network)
    for key, tensor in tensors.items():
        if not key.endswith("pos_embed"):
            tensors[key] = values(tuple(tensor.shape), sum(map(ord, key)) % 997, 0.25)
    from_official(network, tensors)


def latents(seed: int, batch: int = 2) -> torch.Tensor:
    return values((batch, 4, 32, 32), seed, 4.0)


def subset(batch: int, keep: int, num_tokens: int = 256) -> TokenSubset:
    """The mask of the golden runs: noise ((97 l + 31 b) mod N) / N for token l of sample b."""
    token, sample = np.arange(num_tokens)[None], np.arange(batch)[:, None]
    noise = ((97 * token + 31 * sample) % num_tokens) / num_tokens
    return TokenSubset(torch.from_numpy(noise.argsort(axis=1)[:, :keep].copy()), num_tokens)
