"""Means of an error map over the tokens a loss is asked of, and targets of one scale.

Axes: B batch, C channels, H W latent size, N tokens.
"""

import torch.nn.functional as F
from torch import Tensor

from mdt_cli.core.masking.tokens import TokenSubset


def region_mean(
    error_BCHW: Tensor, region: str, subset: TokenSubset | None, patch_size: int
) -> Tensor:
    """Loss per sample [B]: the mean over all, kept or dropped tokens; 0 where there are none."""
    if region == "all" or subset is None:
        return error_BCHW.flatten(1).mean(1)
    error_BN = F.avg_pool2d(error_BCHW.mean(1, keepdim=True), patch_size).flatten(1)
    dropped_BN = subset.dropped_BN
    wanted_BN = dropped_BN if region == "dropped" else ~dropped_BN
    return (error_BN * wanted_BN).sum(1) / wanted_BN.sum(1).clamp(min=1)


def normalised_patches(x_BCHW: Tensor, patch_size: int) -> Tensor:
    """Each patch with mean 0 and variance 1 over its p*p*C values (He et al. 2022, "norm pix").

    The variance is the unbiased one, plus 1e-6, as in MAE's code and all that follow it.
    """
    blocks, mean, spread = _patch_statistics(x_BCHW, patch_size)
    return _together((blocks - mean) / spread)


def denormalised_patches(x_BCHW: Tensor, like_BCHW: Tensor, patch_size: int) -> Tensor:
    """The inverse of `normalised_patches`, with the mean and spread of the patches of `like`."""
    _, mean, spread = _patch_statistics(like_BCHW, patch_size)
    return _together(_blocks(x_BCHW, patch_size) * spread + mean)


def _patch_statistics(x_BCHW: Tensor, patch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    blocks, inside = _blocks(x_BCHW, patch_size), (1, 3, 5)
    mean, variance = blocks.mean(inside, keepdim=True), blocks.var(inside, keepdim=True)
    return blocks, mean, (variance + 1e-6).sqrt()


def _blocks(x_BCHW: Tensor, patch_size: int) -> Tensor:
    """[B, C, rows, p, columns, p]"""
    return x_BCHW.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))


def _together(blocks: Tensor) -> Tensor:
    return blocks.flatten(4, 5).flatten(2, 3)
