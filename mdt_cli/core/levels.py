"""The noise levels a sampler visits, the same three numbers for every objective.

In the variable y = x / scale every process here follows one equation, dy/dtau = (y - D) / tau
(Karras et al. 2022, eq. 1 and 3; Lipman et al. 2023): EDM with scale 1 and tau = sigma, DDPM with
scale = sqrt(abar) and tau = sigma / scale, rectified flow with scale 1 and tau = t.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

# (x [B, C, H, W], t [B]) -> clean estimate [B, C, H, W]; the label is bound by the caller.
Denoise = Callable[[Tensor, Tensor], Tensor]
# What a solver is given.
Given = ParamSpec("Given")


def final(solver: Callable[Given, Iterator[Tensor]]) -> Callable[Given, Tensor]:
    """The function that runs a solver, which yields its state after each step, to its last one."""

    @wraps(solver)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Tensor:
        states = solver(*args, **kwargs)
        last = next(states)
        for state in states:
            last = state
        return last

    return run


@dataclass(frozen=True)
class Level:
    """One stop: the state is y = x / scale, its noise is `tau`, the network reads `t`.

    Of a discrete chain `t` is a training index, or a number between two of them.
    """

    tau: float
    scale: float
    t: float | int


@dataclass(frozen=True)
class LevelOptions:
    """What a caller may choose of the levels; each kind of diffusion reads what concerns it.

    spacing: of training times, as in `respaced_indices`. sigma_min, sigma_max, rho: as in
    `karras_sigmas`. shift: of a flow's times, as in `shifted`. between: of a discrete chain, visit
    numbers between its times, as in `levels_between`, instead of `spacing`.
    """

    steps: int
    spacing: str = "respaced"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    shift: float = 1.0
    between: bool = False


@dataclass(frozen=True)
class Levels:
    """The stops from noise to image; the network is never asked at the last.

    That has tau 0, except in `levels_between`.
    """

    stops: tuple[Level, ...]
    # Standard normal noise times this is the state y at the first stop.
    start: float
    # Rectified flow: x = (1 - t) clean + t noise; tau is t, not the noise-to-signal ratio.
    straight: bool = False

    @property
    def steps(self) -> int:
        """The number of steps between stops."""
        return len(self.stops) - 1


def estimate_at(denoise: Denoise, y: Tensor, level: Level) -> Tensor:
    """The clean estimate in float64; the network reads float32 latents and one time per sample."""
    t_B = torch.full((y.shape[0],), level.t, device=y.device)
    return denoise((level.scale * y).float(), t_B).double()


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """[steps + 1] float64: `steps` falling noise levels, then 0 (Karras et al. 2022, eq. 5)."""
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    share = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + share * (low - high)) ** rho, share.new_zeros(1)])


def respaced_indices(num_timesteps: int, steps: int, spacing: str = "respaced") -> Tensor:
    """[steps] rising training indices.

    respaced: evenly, the first and the last among them, as a stride that is summed in float64 and
    rounded (Nichol & Dhariwal 2021, sec. 4; DiT and MDT). linspace: each is the last of one of
    `steps` equal parts, from a float32 linspace cut to whole numbers (MaskDM). ends, trailing: the
    same two in exact arithmetic, which gives other neighbours at some counts (version 0.1).
    One step alone visits the noisiest index. Raises ValueError for more steps than indices.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"{steps} steps do not fit {num_timesteps} training times")
    last = num_timesteps - 1
    match spacing:
        case "linspace":
            return torch.linspace(-1, last, steps + 1, dtype=torch.float32)[1:].long()
        case "trailing":
            return torch.arange(1, steps + 1) * num_timesteps // steps - 1
        case _ if steps == 1:
            return torch.tensor([last])
        case "respaced":
            stride = last / (steps - 1)
            sums = itertools.accumulate(itertools.repeat(stride, steps - 1), initial=0.0)
            return torch.tensor([round(position) for position in sums])
        case "ends":
            share = torch.arange(steps, dtype=torch.float64) * last / (steps - 1)
            return share.round().long()
        case _:
            raise ValueError(f"no such spacing: {spacing}")


def respaced_betas(alphas_cumprod: Tensor, indices: Tensor) -> Tensor:
    """Betas of the shorter chain whose cumulative products match those at `indices`; float64."""
    kept = alphas_cumprod.double()[indices]
    return 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])


def flow_times(steps: int) -> Tensor:
    """[steps + 1] float64: evenly from 1 (noise) to 0 (image)."""
    return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times in 0..1 moved towards 1 (noise) by a shift above 1, towards 0 by one below.

    s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23); a shift of 1 changes nothing.
    """
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)


def edm_levels(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Levels:
    """EDM's levels: t is sigma, the state is x itself (Karras et al. 2022)."""
    sigmas: list[float] = karras_sigmas(steps, sigma_min, sigma_max, rho).tolist()
    return Levels(tuple(Level(sigma, 1.0, sigma) for sigma in sigmas), start=sigmas[0])


def flow_levels(steps: int, shift: float = 1.0, noise_scale: float = 1.0) -> Levels:
    """Rectified flow's levels: t falls evenly from 1 to 0, and is shifted."""
    times: list[float] = shifted(flow_times(steps), shift).tolist()
    return Levels(tuple(Level(t, 1.0, t) for t in times), start=noise_scale, straight=True)


def ddpm_levels(alphas_cumprod: Tensor, steps: int, spacing: str = "respaced") -> Levels:
    """Respaced training times of a variance-preserving chain; `t` is the original index."""
    rising = respaced_indices(len(alphas_cumprod), steps, spacing)
    indices: list[int] = rising.flip(0).tolist()
    table: list[float] = alphas_cumprod.double().tolist()
    stops = [
        Level(((1 - table[index]) / table[index]) ** 0.5, table[index] ** 0.5, index)
        for index in indices
    ]
    return Levels((*stops, Level(0.0, 1.0, 0)), start=1 / stops[0].scale)


def levels_between(alphas_cumprod: Tensor, steps: int) -> Levels:
    """Numbers evenly from the last training index to 0, where some noise is left (U-ViT)."""
    last = len(alphas_cumprod) - 1
    times: list[float] = torch.linspace(last, 0, steps + 1, dtype=torch.float64).tolist()
    log_abar = log_at(alphas_cumprod.double().log(), torch.tensor(times, dtype=torch.float64))
    stops = [
        Level(math.expm1(-log) ** 0.5, math.exp(log / 2), t)
        for log, t in zip(log_abar.tolist(), times, strict=True)
    ]
    return Levels(tuple(stops), start=1 / stops[0].scale)


def log_at(log_T: Tensor, t: Tensor) -> Tensor:
    """Logarithms of a chain at numbers between its indices, on straight lines (DPM-Solver)."""
    low = t.floor().clamp(0, len(log_T) - 2)
    before = low.long()
    return log_T[before].lerp(log_T[before + 1], t - low)
