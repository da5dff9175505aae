"""`Loss` is what training needs; `Diffusion` adds what sampling needs.

Axes: B batch, C channels, H W latent size. Times have one value per sample and lie where the
latents lie: nothing here makes the host wait for a device.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions, Levels


class Loss(ABC):
    """What the network is fed and how wrong its answer is."""

    kind: str
    # Output channels of the network per latent channel.
    out_multiplier: int = 1
    # The answer is a logit per class: it has an accuracy, and there is no image to show.
    classifies: bool = False
    # The answer is about hidden tokens: what was seen is its own answer.
    restores: bool = False

    @property
    @abstractmethod
    def diffusion(self) -> "Diffusion | None":
        """What images are generated with; None: a network of this loss generates none."""

    @abstractmethod
    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        """Training times [B], on the CPU."""

    @abstractmethod
    def quantile_time(self, share_B: Tensor) -> Tensor:
        """Training times at these shares (0..1) of their distribution, for the held-out loss."""

    @abstractmethod
    def noisy(self, batch: Batch) -> Tensor:
        """What the network may see of the batch [B, C, H, W], before it is scaled."""

    @abstractmethod
    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is fed: scaled latents and the number its time embedding reads."""

    @abstractmethod
    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        """Weighted error per value of the answer; the loss is a mean of it over some region.

        [B, C, H, W], or [B, 1] where the answer is not an image.
        """


@dataclass(frozen=True)
class DiscreteChain:
    """The chain q(x_t | x_{t-1}) that DDPM and DDIM walk back (Ho et al. 2020, sec. 2).

    `betas` names the schedule; `beta_T` and `alphas_cumprod` are float64 [T], on the CPU. The
    network reads the index of a time plus `first_time`.
    """

    betas: str
    beta_T: Tensor
    alphas_cumprod: Tensor
    first_time: int
    learned_variance: bool

    @property
    def num_timesteps(self) -> int:
        """Training times are indices from 0 up to, but not including, this."""
        return len(self.alphas_cumprod)

    def variance_fraction(self, output: Tensor) -> Tensor | None:
        """Position of log variance between posterior (0) and beta (1); None where it is fixed."""
        return (output.chunk(2, dim=1)[1] + 1) / 2 if self.learned_variance else None


class Diffusion(Loss):
    """How noise is added, and how the network's answer becomes a clean estimate."""

    # What the network's second input is, for those who call it without this package.
    time_input: str
    # The fields of `LevelOptions` that `levels` reads, besides the number of steps.
    level_options: tuple[str, ...] = ()
    # Only where training times are the steps of a discrete chain.
    chain: DiscreteChain | None = None

    @property
    def diffusion(self) -> "Diffusion":
        return self

    def noisy(self, batch: Batch) -> Tensor:
        return self.add_noise(batch.clean, batch.noise, batch.t_B)

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents [B, C, H, W] at time t."""

    @abstractmethod
    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        """The clean estimate [B, C, H, W] that the network's output stands for."""

    @abstractmethod
    def levels(self, options: LevelOptions) -> Levels:
        """The noise levels of a sampler, from noise to image."""

    @abstractmethod
    def noise_ratio(self, t: float) -> float:
        """The noise-to-signal ratio sigma / alpha at a time; infinite for pure noise."""

    @abstractmethod
    def noise_share(self, t: float) -> float:
        """A time as a number from 1 (noise) to 0 (image)."""


class NoiseFree(Loss):
    """What losses without noise answer alike: the network sees the clean latents, at time 0."""

    @property
    def diffusion(self) -> None:
        return None

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return torch.zeros_like(share_B)

    def noisy(self, batch: Batch) -> Tensor:
        return batch.clean

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B


def per_sample(values_B: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1] with the dtype of `like`."""
    return values_B.to(like.dtype).view(-1, 1, 1, 1)
