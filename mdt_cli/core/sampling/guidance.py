"""Guidance: two denoisers become one.

All of it acts on clean estimates. At fixed x and t these are affine in what a network predicts
(noise, velocity or EDM's raw F), channel by channel, so extrapolating either is the same thing.
Axes: B batch, C channels, H W latent size.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mdt_cli.core.sampling.ddpm import Estimate
from mdt_cli.core.sampling.levels import Denoise

Channels = Literal["all", "first3"]
# The guidance scale at one of the sampler's times; exactly 1 means none.
Scale = Callable[[float], float]
# An interval that reaches this noise-to-signal ratio has no upper end: flow begins at infinity.
NO_LIMIT = 1e9
# (x, t, y) -> what an Estimate answers.
LabelledEstimate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def extrapolated(main: Tensor, reference: Tensor, scale: float, channels: Channels) -> Tensor:
    """reference + scale (main - reference) (Ho & Salimans 2022, eq. 6, with scale = 1 + w).

    `first3`: channels from the fourth on keep `main`, as DiT and MDT publish.
    """
    mixed = reference + scale * (main - reference)
    return mixed if channels == "all" else torch.cat([mixed[:, :3], main[:, 3:]], dim=1)


def guided(main: Denoise, reference: Denoise, scale: Scale, channels: Channels = "all") -> Denoise:
    """Extrapolate from `reference` through `main`, any two denoisers (Karras et al. 2024).

    `reference` is not asked where the scale is 1.
    """

    def denoise(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        strength = scale(t_B[0].item())
        if strength == 1:
            return main(x_BCHW, t_B)
        return extrapolated(main(x_BCHW, t_B), reference(x_BCHW, t_B), strength, channels)

    return denoise


def classifier_free(
    estimate: LabelledEstimate, y_B: Tensor, null: int, scale: Scale, channels: Channels = "all"
) -> Estimate:
    """Both branches as one batch of 2B (Ho & Salimans 2022); the variance stays conditional.

    Where the scale is 1 only the B conditional rows are computed.
    """
    y_2B = torch.cat([y_B, torch.full_like(y_B, null)])

    def guided_estimate(x_BCHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor | None]:
        strength = scale(t_B[0].item())
        if strength == 1:
            return estimate(x_BCHW, t_B, y_B)
        clean, fraction = estimate(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), y_2B)
        main, reference = clean.chunk(2)
        kept = None if fraction is None else fraction.chunk(2)[0]
        return extrapolated(main, reference, strength, channels), kept

    return guided_estimate


def constant(scale: float) -> Scale:
    return lambda t: scale


def power_cosine(scale: float, power: float, share: Callable[[float], float]) -> Scale:
    """MDT's schedule: 1 + (scale - 1) (1 - cos(pi (1 - share)^power)) / 2.

    `share` maps a time to 1 (noise) .. 0 (image); DDPM divides the index by the number of times.
    """
    return lambda t: 1 + (scale - 1) * (1 - math.cos(math.pi * (1 - share(t)) ** power)) / 2


def interval(scale: float, low: float, high: float, ratio: Callable[[float], float]) -> Scale:
    """Constant while the noise-to-signal ratio is in [low, high], else 1.

    Kynkaanniemi et al. 2024, eq. 5. `ratio` maps a time to sigma / alpha. From `NO_LIMIT` on,
    `high` is no limit, not even for pure noise, whose ratio is infinite.
    """
    return lambda t: scale if low <= min(ratio(t), NO_LIMIT) <= high else 1.0
