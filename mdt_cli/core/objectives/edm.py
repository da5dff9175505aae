"""EDM: log-normal noise levels and a preconditioned denoiser (Karras et al. 2022, table 1)."""

import torch
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions, Levels, edm_levels
from mdt_cli.core.objectives.base import Diffusion, per_sample


class Edm(Diffusion):
    """Time is sigma, the standard deviation of the added noise."""

    kind = "edm"
    time_input = "log(sigma) / 4"
    level_options = ("sigma_min", "sigma_max", "rho")

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, sigma_data: float = 0.5) -> None:
        self.P_mean, self.P_std, self.sigma_data = P_mean, P_std, sigma_data

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.exp(self.P_mean + self.P_std * torch.randn(count, generator=generator))

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return torch.exp(self.P_mean + self.P_std * torch.special.ndtri(share_B))

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean + per_sample(t_B, clean) * noise

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        c_in = 1 / (per_sample(t_B, noisy).square() + self.sigma_data**2).sqrt()
        return c_in * noisy, t_B.log() / 4

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        sigma, data = per_sample(t_B, noisy), self.sigma_data
        total = sigma.square() + data**2
        return data**2 / total * noisy + sigma * data / total.sqrt() * output

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        sigma, data = per_sample(batch.t_B, batch.clean), self.sigma_data
        weight = (sigma.square() + data**2) / (sigma * data).square()
        return weight * (self.denoised(output.float(), noisy, batch.t_B) - batch.clean).square()

    def levels(self, options: LevelOptions) -> Levels:
        return edm_levels(options.steps, options.sigma_min, options.sigma_max, options.rho)

    def noise_ratio(self, t: float) -> float:
        return t

    def noise_share(self, t: float) -> float:
        """Sigma has no end, so sigma / (1 + sigma)."""
        return t / (1 + t)
