"""What is done with a network's answer, written down plainly: losses, guidance, samplers.

Formulas straight from the papers, one sample at a time where that is plainer, in float64.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.reference.samplers import gaussian_posterior, karras

ABAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
SIGMA_DATA = 0.5


def add_noise(clean: Tensor, noise: Tensor, t: Sequence[int]) -> Tensor:
    """DDPM's x_t, one sample after the other."""
    return torch.stack(
        [
            float(np.sqrt(ABAR[k])) * x + float(np.sqrt(1 - ABAR[k])) * n
            for x, n, k in zip(clean, noise, t, strict=True)
        ]
    )


def _clean_of(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    return (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def mse_and_vb(
    answer: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, t: Sequence[int], min_snr: bool
) -> tuple[list[float], list[float]]:
    """Per sample: weighted mse, and the bits of the variational bound with a learned variance."""
    mses, bounds = [], []
    samples = (part.double() for part in (answer, clean, noise, noisy))
    for out, x0, n, x, k in zip(*samples, t, strict=True):
        eps, v = out[:4], out[4:]
        abar, before = float(ABAR[k]), float(ABAR[k - 1]) if k else 1.0
        snr = abar / (1 - abar)
        mses.append(float((min(snr, 5) / snr if min_snr else 1) * (eps - n).square().mean()))
        beta = 1 - abar / before
        if k == 0:
            # The posterior's variance is 0 here; that of the next time stands in.
            low = gaussian_posterior(0, 0, float(ABAR[1]), abar)[1]
            mean = _clean_of(x, eps, abar)
        else:
            true, low = gaussian_posterior(x, x0, abar, before)
            mean = gaussian_posterior(x, _clean_of(x, eps, abar), abar, before)[0]
        share = (v + 1) / 2
        scale = (0.5 * (share * math.log(beta) + (1 - share) * math.log(low))).exp()
        if k == 0:
            bits = -_mass(x0, mean, scale).clamp(min=1e-12).log()
        else:
            spread = torch.full_like(x0, math.sqrt(low))
            bits = kl_divergence(Normal(true, spread), Normal(mean, scale))
        bounds.append(float(bits.mean() / math.log(2)))
    return mses, bounds


def _mass(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Of the bin of width 2/255 around x, open to the outside at both ends of [-1, 1].

    In float32, as official code has it: far from the mean it rounds to nothing there, and the
    latents reach twice as far as the pixels this was made for.
    """
    x, mean, scale = x.float(), mean.float(), scale.float()

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    up, down = cdf((x - mean + 1 / 255) / scale), cdf((x - mean - 1 / 255) / scale)
    up = torch.where(x > 0.999, torch.ones_like(up), up)
    return up - torch.where(x < -0.999, torch.zeros_like(down), down)


def ddpm_step(answer: Tensor, x: Tensor, step: int, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and log variance of one step of a shorter chain, from a raw answer [1, 8, H, W]."""
    out, state = answer.double(), x.double()
    kept = [ABAR[round(i * 999 / (steps - 1))] for i in range(steps)]
    abar, before = float(kept[step]), float(kept[step - 1])
    clean = _clean_of(state, out[:, :4], abar)
    mean, low = gaussian_posterior(state, clean, abar, before)
    share = (out[:, 4:] + 1) / 2
    return mean, share * math.log(1 - abar / before) + (1 - share) * math.log(low)


def guided_noise(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """The first three channels extrapolated; all others as the condition has them."""
    merged = conditional.clone()
    merged[:, :3] = null[:, :3] + scale * (conditional[:, :3] - null[:, :3])
    return merged


def power_cosine(scale: float, power: float, t: int) -> float:
    return 1 + (scale - 1) * (1 - math.cos(math.pi * (1 - t / 1000) ** power)) / 2


# EDM (Karras et al. 2022, table 1): F is the network, D the denoiser around it.
Raw = Callable[[Tensor, Tensor], Tensor]


def preconditioned(raw: Raw, x: Tensor, sigma: float) -> Tensor:
    """D(x; sigma) of a batch at one noise level."""
    total = math.sqrt(sigma**2 + SIGMA_DATA**2)
    t = torch.full((len(x),), math.log(sigma) / 4)
    answer = raw((x / total).float(), t).to(x.dtype)
    return (SIGMA_DATA / total) ** 2 * x + sigma * SIGMA_DATA / total * answer


def heun_edm(raw: Raw, noise: Tensor, steps: int) -> Tensor:
    """Karras et al. 2022, algorithm 1, float64 state."""
    sigmas = karras(steps, 0.002, 80.0, 7.0)
    x = noise.double() * sigmas[0]
    for here, after in pairwise(sigmas):
        slope = (x - preconditioned(raw, x.float(), here).double()) / here
        there = x + (after - here) * slope
        if after:
            second = (there - preconditioned(raw, there.float(), after).double()) / after
            there = x + (after - here) * (slope + second) / 2
        x = there
    return x


def patches_of(image: Tensor, patch: int) -> list[Tensor]:
    """[C, H, W] as patches [C, p, p] in reading order."""
    height, width = image.shape[1:]
    return [
        image[:, top : top + patch, left : left + patch]
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]


def normalised(values: Tensor) -> Tensor:
    """Mean 0 and variance 1, the unbiased one plus 1e-6."""
    flat = [float(v) for v in values.flatten()]
    mean = sum(flat) / len(flat)
    variance = sum((v - mean) ** 2 for v in flat) / (len(flat) - 1)
    return (values - mean) / math.sqrt(variance + 1e-6)


def over_patches(
    one: Tensor, other: Tensor, places: Sequence[int], patch: int, norm: bool = False
) -> float:
    """Mean square between two images' patches at `places`; `norm` scales those of the second."""
    pairs = list(zip(patches_of(one, patch), patches_of(other, patch), strict=True))
    errors = [(a - (normalised(b) if norm else b)).square().mean() for a, b in pairs]
    return float(sum(errors[n] for n in places) / len(places))


def edm_weight(sigma: float) -> float:
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
