"""The noise that each step of a discrete chain adds."""

import math

import torch
from torch import Tensor


def beta_table(kind: str, num_timesteps: int) -> Tensor:
    """[num_timesteps] float64, on the CPU: the variances of q(x_t | x_{t-1}).

    ValueError for another kind.

    linear: 1e-4 to 2e-2 (Ho et al. 2020). scaled_linear: their roots rise evenly, 0.00085 to 0.012
    (Rombach et al. 2022; U-ViT). These ranges belong to 1000 steps; fewer steps are larger ones
    (Nichol & Dhariwal 2021). cosine: eq. 17 of the latter, at most 0.999 (MaskDM).
    """
    scale = 1000 / num_timesteps
    match kind:
        case "linear":
            return torch.linspace(
                scale * 1e-4,
                min(scale * 2e-2, 0.999),
                num_timesteps,
                dtype=torch.float64,
                device="cpu",
            )
        case "scaled_linear":
            ends = (scale * 0.00085) ** 0.5, min(scale * 0.012, 0.999) ** 0.5
            return torch.linspace(*ends, num_timesteps, dtype=torch.float64, device="cpu").square()
        case "cosine":
            share = (
                torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
            )
            signal = torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
            return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        case _:
            raise ValueError(f"no such betas: {kind}")
