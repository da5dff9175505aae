"""DPM-Solver++, a multistep solver in the logarithm of the signal-to-noise ratio.

The state is float64, the network float32. Axes: B batch, C channels, H W latent size.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from mdt_cli.core.levels import Denoise, Level, Levels, estimate_at, final


def dpm_solver_pp_steps(denoise: Denoise, noise_BCHW: Tensor, levels: Levels) -> Iterator[Tensor]:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2). One network call a step.

    First and last step are of first order. The process is y = alpha clean + sigma noise, with
    alpha = 1 - t and sigma = t for flow; DDPM and EDM are solved with alpha = 1 and sigma = tau,
    since the method does not see a factor of the state.
    """

    def signal(level: Level) -> float:
        return 1 - level.tau if levels.straight else 1.0

    def log_snr(level: Level) -> float:
        """Half the logarithm of the ratio; minus infinity for pure noise."""
        alpha = signal(level)
        return math.log(alpha / level.tau) if alpha else -math.inf

    y, before, h_before = noise_BCHW.double() * levels.start, None, 0.0
    for here, after in zip(levels.stops, levels.stops[1:], strict=False):
        clean = estimate_at(denoise, y, here)
        if after.tau == 0:
            yield signal(after) * clean
            return
        h = log_snr(after) - log_snr(here)
        # Behind pure noise h_before is infinite, and the share of the estimate before is zero.
        share = h / (2 * h_before) if before is not None else 0.0
        mixed = clean if before is None else (1 + share) * clean - share * before
        y = after.tau / here.tau * y - signal(after) * math.expm1(-h) * mixed
        before, h_before = clean, h
        yield y
    raise ValueError("the last of the levels has no tau 0")


dpm_solver_pp = final(dpm_solver_pp_steps)
