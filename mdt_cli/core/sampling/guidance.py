"""Guidance: two estimates become one.

All of it acts on clean estimates. At fixed x and t these are affine in what a network predicts
(noise, velocity or EDM's raw F), channel by channel, so extrapolating either is the same thing.
Axes: B batch, C channels, H W latent size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mdt_cli.core.batch import Condition, joined
from mdt_cli.core.sampling.ddpm import Estimate

Channels = Literal["all", "first3"]
# The guidance scale at one of the sampler's times; exactly 1 means none.
Scale = Callable[[float], float]
# An interval that reaches this noise-to-signal ratio has no upper end: flow begins at infinity.
NO_LIMIT = 1e9
# A clean estimate and the position of the log variance, as an `Estimate` answers.
Estimated = tuple[Tensor, Tensor | None]
# (x, t, names) -> the answer of each of these estimates. "own" is that of the images' own
# condition, "null" that of none; those of other networks or of fewer tokens may have other names.
Estimates = Callable[[Tensor, Tensor, Sequence[str]], Mapping[str, Estimated]]
# (x, t, condition) -> the answer of one network.
ConditionedEstimate = Callable[[Tensor, Tensor, Condition], Estimated]


def extrapolated(main: Tensor, reference: Tensor, scale: float, channels: Channels) -> Tensor:
    """reference + scale (main - reference) (Ho & Salimans 2022, eq. 6, with scale = 1 + w).

    `first3`: channels from the fourth on keep `main`, as DiT and MDT publish.
    """
    mixed = reference + scale * (main - reference)
    return mixed if channels == "all" else torch.cat([mixed[:, :3], main[:, 3:]], dim=1)


def guided(
    ask: Estimates,
    scale: Scale,
    channels: Channels = "all",
    main: str = "own",
    reference: str = "null",
) -> Estimate:
    """Extrapolate from `reference` through `main` (Ho & Salimans 2022; Karras et al. 2024).

    The variance is that of `main`. `reference` is not asked where the scale is 1.
    """

    def estimate(x_BCHW: Tensor, t_B: Tensor) -> Estimated:
        strength = scale(t_B[0].item())
        if strength == 1:
            return ask(x_BCHW, t_B, [main])[main]
        answers = ask(x_BCHW, t_B, [main, reference])
        clean, fraction = answers[main]
        return extrapolated(clean, answers[reference][0], strength, channels), fraction

    return estimate


def of_conditions(estimate: ConditionedEstimate, conditions: Mapping[str, Condition]) -> Estimates:
    """One network under conditions with names; those that are asked for make one batch."""

    def ask(x_BCHW: Tensor, t_B: Tensor, names: Sequence[str]) -> dict[str, Estimated]:
        if len(names) == 1:
            return {names[0]: estimate(x_BCHW, t_B, conditions[names[0]])}
        count, condition = len(names), joined([conditions[name] for name in names])
        clean, fraction = estimate(torch.cat([x_BCHW] * count), torch.cat([t_B] * count), condition)
        cleans = clean.chunk(count)
        fractions = [None] * count if fraction is None else fraction.chunk(count)
        return dict(zip(names, zip(cleans, fractions, strict=True), strict=True))

    return ask


def constant(scale: float) -> Scale:
    """The same scale at every time."""
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
