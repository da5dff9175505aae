"""Data whose ideal denoiser and whose exact flow are known."""

import torch
from torch import Tensor

MEAN, STD = 0.3, 0.7


def linear_alphas_cumprod(num_timesteps: int = 1000) -> Tensor:
    betas = torch.linspace(1e-4, 2e-2, num_timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def gaussian_clean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | x = alpha clean + sigma noise] for clean ~ N(MEAN, STD^2)."""
    variance = alpha**2 * STD**2 + sigma**2
    return MEAN + alpha * STD**2 / variance * (x.double() - alpha * MEAN)


def gaussian_end(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """Where the probability flow from x ends: the same quantile of the data."""
    return MEAN + STD * (x.double() - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2) ** 0.5


def edm_gaussian(x: Tensor, t_B: Tensor) -> Tensor:
    sigma = t_B.double().view(-1, 1, 1, 1)
    return gaussian_clean(x, torch.ones_like(sigma), sigma)


def flow_gaussian(x: Tensor, t_B: Tensor) -> Tensor:
    t = t_B.double().view(-1, 1, 1, 1)
    return gaussian_clean(x, 1 - t, t)


def ddpm_gaussian(x: Tensor, t_B: Tensor) -> Tensor:
    assert t_B.dtype == torch.int64, "the network reads the training index"
    abar = linear_alphas_cumprod()[t_B].view(-1, 1, 1, 1)
    return gaussian_clean(x, abar.sqrt(), (1 - abar).sqrt())


def finite_set_clean(points_NCHW: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | x = clean + sigma noise] for clean drawn evenly from the points."""
    distance = (x.double()[:, None] - points_NCHW[None]).square().flatten(2).sum(2)
    weight = torch.softmax(-distance / (2 * sigma.double().view(-1, 1) ** 2), dim=1)
    return torch.einsum("bn,nchw->bchw", weight, points_NCHW)


def order(errors: list[float]) -> float:
    """Mean log2 of the ratio of neighbours, for step counts that double."""
    logs = torch.tensor(errors, dtype=torch.float64).log2()
    return float((logs[:-1] - logs[1:]).mean())
