"""No noise and no time: the network restores hidden latents from the visible ones.

LMD (an autoencoder on masked latents) and MAE (He et al. 2022). There is nothing to sample.
"""

import torch
from torch import Tensor

from mdt_cli.core.objectives.base import Objective


class Reconstruction(Objective):
    """The answer is the clean latents; the error is its plain square."""

    kind = "reconstruction"

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return torch.zeros_like(share_B)

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B.to(noisy.device)

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        return output

    def error(
        self, output: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, t_B: Tensor
    ) -> Tensor:
        return (output.float() - clean).square()
