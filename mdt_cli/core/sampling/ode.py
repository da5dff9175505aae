"""Euler and Heun for the probability-flow equation dy/dtau = (y - D) / tau.

The state is float64, the network float32. Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Iterator

from torch import Tensor

from mdt_cli.core.levels import Denoise, Levels, estimate_at, final


def euler_steps(denoise: Denoise, noise_BCHW: Tensor, levels: Levels) -> Iterator[Tensor]:
    """One network call a step. On DDPM levels this is DDIM with eta 0 (Song et al. 2021)."""
    y = noise_BCHW.double() * levels.start
    for here, after in zip(levels.stops, levels.stops[1:], strict=False):
        slope = (y - estimate_at(denoise, y, here)) / here.tau
        y = y + (after.tau - here.tau) * slope
        yield y


def heun_steps(denoise: Denoise, noise_BCHW: Tensor, levels: Levels) -> Iterator[Tensor]:
    """Second order, 2 steps - 1 network calls: the last step stays Euler.

    Karras et al. 2022, algorithm 1.
    """
    y = noise_BCHW.double() * levels.start
    for here, after in zip(levels.stops, levels.stops[1:], strict=False):
        slope = (y - estimate_at(denoise, y, here)) / here.tau
        trial = y + (after.tau - here.tau) * slope
        if after.tau > 0:
            trial_slope = (trial - estimate_at(denoise, trial, after)) / after.tau
            trial = y + (after.tau - here.tau) * (slope + trial_slope) / 2
        y = trial
        yield y


euler, heun = final(euler_steps), final(heun_steps)
