"""Samplers that put noise back: ancestral DDPM with learned variance, and DDIM with eta.

Tables and state are float64, the network float32. Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mdt_cli.core.levels import Denoise, final, respaced_betas, respaced_indices

# (x, t) -> (clean estimate, position of the log variance between posterior (0) and beta (1)).
# None for the position: the network learned no variance and the posterior's own is used.
Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
# The next step's standard normal noise [B, C, H, W], each image's from its own seed.
StepNoise = Callable[[], Tensor]


class Chain:
    """A respaced DDPM chain, step `steps - 1` (noise) down to 0 (Ho et al. 2020, sec. 2)."""

    def __init__(self, alphas_cumprod: Tensor, steps: int, spacing: str = "respaced") -> None:
        self.indices: list[int] = respaced_indices(len(alphas_cumprod), steps, spacing).tolist()
        betas = respaced_betas(alphas_cumprod, torch.tensor(self.indices))
        self.alphas_cumprod: list[float] = alphas_cumprod.double()[self.indices].tolist()
        self.before: list[float] = [1.0, *self.alphas_cumprod[:-1]]
        self.log_betas: list[float] = betas.log().tolist()
        before = torch.tensor(self.before, dtype=torch.float64)
        rest = 1 - torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        # Ho et al. 2020, eq. 7.
        variance = betas * (1 - before) / rest
        self.clean_coef: list[float] = (betas * before.sqrt() / rest).tolist()
        self.noisy_coef: list[float] = ((1 - before) * (1 - betas).sqrt() / rest).tolist()
        # Entry 0 is zero; its logarithm borrows entry 1. A chain of one step never needs it.
        first = variance[1:2] if steps > 1 else betas[:1]
        self.log_variance: list[float] = torch.cat([first, variance[1:]]).log().tolist()

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.indices)

    def posterior(
        self, step: int, x: Tensor, clean: Tensor, fraction: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of p(x_before | x) (Nichol & Dhariwal 2021, eq. 15)."""
        mean = self.clean_coef[step] * clean.double() + self.noisy_coef[step] * x.double()
        low = torch.full_like(mean, self.log_variance[step])
        if fraction is None:
            return mean, low
        return mean, low + fraction.double() * (self.log_betas[step] - low)


def ddpm_steps(
    estimate: Estimate, noise_BCHW: Tensor, chain: Chain, step_noise: StepNoise
) -> Iterator[Tensor]:
    """Ancestral sampling; the estimate is not clipped, the last step adds no noise."""
    x = noise_BCHW.double()
    for step in reversed(range(chain.steps)):
        clean, fraction = estimate(x.float(), _times(chain, step, x))
        mean, log_variance = chain.posterior(step, x, clean, fraction)
        x = mean + (0.5 * log_variance).exp() * step_noise().double() if step else mean
        yield x


def ddim_steps(
    denoise: Denoise,
    noise_BCHW: Tensor,
    chain: Chain,
    eta: float,
    step_noise: StepNoise,
    clip: bool = False,
) -> Iterator[Tensor]:
    """Song et al. 2021, eq. 12 and 16: eta 0 is deterministic, eta 1 has DDPM's posterior variance.

    `clip` keeps the clean estimate within [-1, 1], but not the noise that it stands for: the
    published sampler of MaskDM puts the network's own noise back, which no longer adds up to x.
    The last step returns the estimate. `step_noise` is not drawn from where eta is 0. Raises
    ValueError where eta leaves a step less variance than it wants to put back.
    """
    x = noise_BCHW.double()
    for step in reversed(range(chain.steps)):
        clean = denoise(x.float(), _times(chain, step, x)).double()
        here, before = chain.alphas_cumprod[step], chain.before[step]
        sigma = eta * ((1 - before) / (1 - here) * (1 - here / before)) ** 0.5
        kept = 1 - before - sigma**2
        # Exactly 0 at eta 1 on the last step; rounding must not turn it into a complex root.
        if kept < -1e-12:
            raise ValueError(f"eta {eta} puts back more noise than step {step} has")
        predicted_noise = (x - here**0.5 * clean) / (1 - here) ** 0.5
        clean = clean.clamp(-1, 1) if clip else clean
        x = before**0.5 * clean + max(kept, 0.0) ** 0.5 * predicted_noise
        if sigma > 0:
            x = x + sigma * step_noise().double()
        yield x


ddpm, ddim = final(ddpm_steps), final(ddim_steps)


def clipped(estimate: Estimate) -> Estimate:
    """The same with every clean estimate kept within [-1, 1]."""

    def within(x: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor | None]:
        clean, fraction = estimate(x, t_B)
        return clean.clamp(-1, 1), fraction

    return within


def _times(chain: Chain, step: int, x: Tensor) -> Tensor:
    """The original training index, one per sample: what the network learned to read."""
    return torch.full((x.shape[0],), chain.indices[step], device=x.device)
