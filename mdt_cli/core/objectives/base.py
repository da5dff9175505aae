"""The five questions that every objective answers.

Axes: B batch, C channels, H W latent size. Times have one value per sample and lie where the
latents lie: nothing here makes the host wait for a device.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Objective(ABC):
    """How noise is added, what the network is asked, how its answer becomes a clean estimate."""

    kind: str
    # Output channels of the network per latent channel.
    out_multiplier: int = 1

    @abstractmethod
    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        """Training times [B], on the CPU."""

    @abstractmethod
    def quantile_time(self, share_B: Tensor) -> Tensor:
        """Training times at these shares (0..1) of their distribution, for the held-out loss."""

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents [B, C, H, W] at time t."""

    @abstractmethod
    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is fed: scaled latents and the number its time embedding reads."""

    @abstractmethod
    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        """The clean estimate [B, C, H, W] that the network's output stands for."""

    @abstractmethod
    def error(
        self,
        output: Tensor,
        clean: Tensor,
        noise: Tensor,
        noisy: Tensor,
        t_B: Tensor,
        y_B: Tensor | None = None,
    ) -> Tensor:
        """Weighted error per value [B, C, H, W]; the loss is a mean of it over some region.

        `y_B` are the labels of the images, for objectives that ask for them.
        """


class NoiseFree(Objective):
    """What objectives without noise and time answer alike: time is 0, and nothing is added."""

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return torch.zeros_like(share_B)

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B


def per_sample(values_B: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1] with the dtype of `like`."""
    return values_B.to(like.dtype).view(-1, 1, 1, 1)
