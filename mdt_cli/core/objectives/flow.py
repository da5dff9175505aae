"""Rectified flow: a straight path between image and noise (Liu 2022; Esser et al. 2024)."""

from typing import Literal

import torch
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions, Levels, flow_levels, shifted
from mdt_cli.core.objectives.base import Diffusion, per_sample

# The time embedding was made for 0..1000; times in 0..1 would use few of its frequencies.
TIME_SCALE = 1000.0


class Flow(Diffusion):
    """x_t = (1-t) clean + t noise, with noise of standard deviation `noise_scale`.

    The network predicts the velocity noise - clean ("v"), or the clean latents ("x"), whose error
    is divided by max(t, floor): that of the velocity (x_t - clean) / t which they stand for
    (Li & He 2025, 2511.13720). Times are uniform in (0, 1), or logit-normal(mean, std) (Esser et
    al. 2024, eq. 19) where a mean and std are given; `shift` then moves them towards noise.
    """

    kind = "flow"
    time_input = "1000 t, t from 0 (image) to 1 (noise)"
    level_options = ("shift",)

    def __init__(
        self,
        logit_normal: tuple[float, float] | None = (0.0, 1.0),
        predict: Literal["v", "x"] = "v",
        floor: float = 0.05,
        shift: float = 1.0,
        noise_scale: float = 1.0,
    ) -> None:
        self.logit_normal, self.predict, self.floor = logit_normal, predict, floor
        self.shift, self.noise_scale = shift, noise_scale

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        if self.logit_normal is None:
            return shifted(torch.rand(count, generator=generator), self.shift)
        mean, std = self.logit_normal
        drawn = torch.sigmoid(mean + std * torch.randn(count, generator=generator))
        return shifted(drawn, self.shift)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        if self.logit_normal is None:
            return shifted(share_B, self.shift)
        mean, std = self.logit_normal
        drawn = torch.sigmoid(mean + std * torch.special.ndtri(share_B))
        return shifted(drawn, self.shift)

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean.lerp(self._scaled(noise), per_sample(t_B, clean))

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B * TIME_SCALE

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        return output if self.predict == "x" else noisy - per_sample(t_B, noisy) * output

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        if self.predict == "v":
            return (output.float() - (self._scaled(batch.noise) - batch.clean)).square()
        share = per_sample(batch.t_B, batch.clean).clamp(min=self.floor)
        return ((output.float() - batch.clean) / share).square()

    def levels(self, options: LevelOptions) -> Levels:
        return flow_levels(options.steps, options.shift, self.noise_scale)

    def noise_ratio(self, t: float) -> float:
        return self.noise_scale * t / (1 - t) if t < 1 else float("inf")

    def noise_share(self, t: float) -> float:
        return t

    def _scaled(self, noise: Tensor) -> Tensor:
        return noise if self.noise_scale == 1 else self.noise_scale * noise
