"""Sums over the latents of a shard, from which the statistics of a cache are made."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from mdt_cli.artifacts.latent_cache.format import MEAN, PIXELS, STD


def channel_sums(tensors: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """Sums over rows and positions per channel: of the latents, and of mean squared + variance.

    In numpy, which adds in the same order whatever the number of threads; exact for pixels.
    """
    if PIXELS in tensors:
        pixels = tensors[PIXELS].numpy()
        # A square fits into 16 bits, and the sum of a shard's into 64.
        squared = np.multiply(pixels, pixels, dtype=np.uint16)
        return (
            pixels.sum(axis=(0, 2, 3), dtype=np.int64).astype(float).tolist(),
            squared.sum(axis=(0, 2, 3), dtype=np.int64).astype(float).tolist(),
        )
    mean = tensors[MEAN].double().numpy()
    squares = np.square(mean)
    if STD in tensors:
        squares += np.square(tensors[STD].double().numpy())
    return mean.sum(axis=(0, 2, 3)).tolist(), squares.sum(axis=(0, 2, 3)).tolist()
