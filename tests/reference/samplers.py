"""Samplers restated from their papers in plain Python and NumPy, one scalar image at a time."""

import itertools
import math
from collections.abc import Callable

import numpy as np


def karras(steps: int, low: float, high: float, rho: float) -> list[float]:
    """Karras et al. 2022, eq. 5, term by term."""
    out = []
    for i in range(steps):
        a, b = high ** (1 / rho), low ** (1 / rho)
        out.append((a + i / (steps - 1) * (b - a)) ** rho)
    return [*out, 0.0]


def gaussian_posterior(
    x: float, clean: float, abar: float, abar_before: float
) -> tuple[float, float]:
    """q(x_before | x, clean) as a product of two Gaussians in x_before, by Bayes' rule.

    Prior: N(sqrt(abar_before) clean, 1 - abar_before); likelihood of x: N(sqrt(a) x_before, 1 - a).
    """
    a = abar / abar_before
    prior_precision, likelihood_precision = 1 / (1 - abar_before), a / (1 - a)
    variance = 1 / (prior_precision + likelihood_precision)
    mean = variance * (
        prior_precision * math.sqrt(abar_before) * clean + likelihood_precision * x / math.sqrt(a)
    )
    return mean, variance


def ddim_with_clipping(
    noise_at: Callable[[np.ndarray, int], np.ndarray],
    x: np.ndarray,
    betas: np.ndarray,
    steps: int,
    draws: list[np.ndarray],
) -> np.ndarray:
    """MaskDM's sampler, from its description: eta 1, times int(linspace(-1, T - 1)) backwards.

    The estimate is cut to [-1, 1] and joined with the noise that the network named before that.
    """
    products = np.cumprod(1 - betas)
    times = [int(time) for time in np.linspace(-1, len(betas) - 1, steps + 1)][::-1]
    for time, after in itertools.pairwise(times):
        a = products[time]
        noise = noise_at(x, time)
        clean = np.clip((x - math.sqrt(1 - a) * noise) / math.sqrt(a), -1, 1)
        if after < 0:
            return clean
        b = products[after]
        variance = (1 - a / b) * (1 - b) / (1 - a)
        x = math.sqrt(b) * clean + math.sqrt(1 - b - variance) * noise
        x = x + math.sqrt(variance) * draws.pop(0)
    raise AssertionError("the last time must be -1")


def dpm_solver_pp_2m(
    clean_at: Callable[[np.ndarray, int], np.ndarray],
    x: np.ndarray,
    alphas: list[float],
    sigmas: list[float],
) -> np.ndarray:
    """Lu et al. 2022, algorithm 2 with r_i; the last sigma is 0 and that step is first order."""
    before: np.ndarray | None = None
    h_before = 0.0
    for i in range(1, len(alphas)):
        clean = clean_at(x, i - 1)
        if sigmas[i] == 0:
            return alphas[i] * clean
        # Pure noise (alpha 0) has log-SNR minus infinity; r is then infinite: first order.
        lam = [math.log(alphas[j] / sigmas[j]) if alphas[j] else -math.inf for j in (i - 1, i)]
        h = lam[1] - lam[0]
        used = clean
        if before is not None:
            r = h_before / h
            used = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        x = sigmas[i] / sigmas[i - 1] * x - alphas[i] * (math.exp(-h) - 1) * used
        before, h_before = clean, h
    raise AssertionError("the last sigma must be 0")
