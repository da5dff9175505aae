"""Rectified flow: a straight path between image and noise (Liu 2022; Esser et al. 2024)."""

import torch
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions, Levels, flow_levels
from mdt_cli.core.objectives.base import Diffusion, per_sample

# The time embedding was made for 0..1000; times in 0..1 would use few of its frequencies.
TIME_SCALE = 1000.0


class Flow(Diffusion):
    """x_t = (1-t) clean + t noise; the network predicts the velocity noise - clean.

    Times are uniform in (0, 1), or logit-normal(mean, std) (Esser et al. 2024, eq. 19) where a
    mean and std are given.
    """

    kind = "flow"
    time_input = "1000 t, t from 0 (image) to 1 (noise)"

    def __init__(self, logit_normal: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self.logit_normal = logit_normal

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        if self.logit_normal is None:
            return torch.rand(count, generator=generator)
        mean, std = self.logit_normal
        return torch.sigmoid(mean + std * torch.randn(count, generator=generator))

    def quantile_time(self, share_B: Tensor) -> Tensor:
        if self.logit_normal is None:
            return share_B
        mean, std = self.logit_normal
        return torch.sigmoid(mean + std * torch.special.ndtri(share_B))

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean.lerp(noise, per_sample(t_B, clean))

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B * TIME_SCALE

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        return noisy - per_sample(t_B, noisy) * output

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        return (output.float() - (batch.noise - batch.clean)).square()

    def levels(self, options: LevelOptions) -> Levels:
        return flow_levels(options.steps)

    def noise_ratio(self, t: float) -> float:
        return t / (1 - t) if t < 1 else float("inf")

    def noise_share(self, t: float) -> float:
        return t
