"""No noise and no time: the network restores hidden latents from the visible ones.

LMD (an autoencoder on masked latents) and MAE (He et al. 2022). There is nothing to sample.

Axes: B batch, C channels, H W latent size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.objectives.base import NoiseFree
from mdt_cli.core.objectives.losses import denormalised_patches


class Reconstruction(NoiseFree):
    """The answer is the clean latents; the error is its plain square."""

    kind = "reconstruction"
    restores = True

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        return (output.float() - batch.clean).square()


def restored(
    output_BCHW: Tensor,
    clean_BCHW: Tensor,
    subset: TokenSubset,
    patch_size: int,
    normalised: bool,
) -> Tensor:
    """Clean latents with the network's answer at the hidden positions.

    `normalised`: the answer is of patches with mean 0 and variance 1, so each gets the mean and
    spread of the clean patch it stands for, as MAE's demonstration does (He et al. 2022).
    """
    answer_BCHW = output_BCHW.float()
    if normalised:
        answer_BCHW = denormalised_patches(answer_BCHW, clean_BCHW, patch_size)
    height, width = clean_BCHW.shape[2:]
    grid = (height // patch_size, width // patch_size)
    return torch.where(hidden_places(subset, grid, height, width), answer_BCHW, clean_BCHW)


def hidden_places(subset: TokenSubset, grid: tuple[int, int], height: int, width: int) -> Tensor:
    """bool [B, 1, height, width]: where the dropped tokens lie in an image of this size."""
    dropped = subset.dropped_BN.unflatten(1, grid).unsqueeze(1).float()
    return F.interpolate(dropped, (height, width), mode="nearest") > 0.5
