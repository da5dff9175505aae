"""Samplers, times, routes and ratios: what the official code visits, and what ours does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.core.levels import LevelOptions, karras_sigmas, log_at, respaced_indices
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.core.rng import stream
from mdt_cli.core.sampling.singlestep import dpm_solver_singlestep
from mdt_cli.services.build.masking import build_selector
from mdt_cli.services.build.objective import build_loss, diffusion_of
from mdt_cli.services.build.ratio import build_mask_ratio
from tests.golden.rules import Rule

# The data of the U-ViT rule is N(MEAN, STD^2), whose noise prediction is known.
MEAN, STD, START = 0.7, 0.4, (-1.5, -0.3, 0.2, 1.1)


def tread_levels() -> Sequence[float]:
    """Solver calls, then the first and the last noise levels of the preset."""
    sampling = load_config(["tread"], []).config.sampling
    assert sampling.solver == "heun"
    sigmas = karras_sigmas(
        sampling.steps, sampling.sigma_min, sampling.sigma_max, sampling.rho
    ).tolist()
    return [2 * sampling.steps - 1, sigmas[0], sigmas[1], sigmas[-2]]


def tread_kept() -> Sequence[float]:
    """Tokens that the route keeps of 256, 49, 25 and 64 at ratios 0.5, 0.5, 0.3 and 0.3."""
    masking = load_config(["tread"], []).config.masking
    cases = ((16, 0.5), (7, 0.5), (5, 0.3), (8, 0.3))
    return [
        build_selector(masking, (side, side)).num_kept((side, side), ratio) for side, ratio in cases
    ]


def uvit_end(steps: int) -> Sequence[float]:
    """Where the preset's sampler takes four values, with the exact noise prediction."""
    config = load_config(["uvit"], []).config
    assert config.sampling.solver == "dpm++3s"
    diffusion = diffusion_of(build_loss(config.objective))
    assert diffusion.chain is not None
    log_T = diffusion.chain.alphas_cumprod.log()

    def denoise(x: Tensor, t_B: Tensor) -> Tensor:
        log = log_at(log_T, t_B.double()).view(-1, 1, 1, 1)
        alpha, sigma = (log / 2).exp(), (-torch.expm1(log)).sqrt()
        noise = sigma * (x.double() - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return diffusion.denoised(noise.float(), x, t_B)

    levels = diffusion.levels(LevelOptions(steps, between=True))
    start = torch.tensor(START).view(-1, 1, 1, 1)
    end: list[float] = dpm_solver_singlestep(denoise, start, levels).flatten().tolist()
    return end


def visited(preset: str, steps: int, places: Sequence[int]) -> Sequence[float]:
    """The training times at these places of a chain of `steps`."""
    spacing = load_config([preset], []).config.sampling.spacing
    indices: list[float] = respaced_indices(1000, steps, spacing)[list(places)].tolist()
    return indices


def maskdm_first_rates(warmup: int) -> Sequence[float]:
    """Learning rates of the first five steps."""
    config = load_config(["maskdm"], [f"lr_schedule.warmup={warmup}"]).config
    schedule = config.lr_schedule
    return [
        config.optimizer.lr
        * lr_factor(step, 100, warmup, schedule.kind, schedule.final, schedule.starts_at_zero)
        for step in range(5)
    ]


def ratios_of_a_step() -> Sequence[float]:
    """How many mask ratios eight forward passes of one step have."""
    ratio = build_mask_ratio(load_config(["mdtv2"], []).config.masking)
    keys = [(0, index) if ratio.per_micro_batch else (0,) for index in range(8)]
    return [len({ratio.at(0, 100, stream(0, *key, "mask ratio")) for key in keys})]


RULES = (
    Rule(
        "TREAD",
        "Heun with 40 steps on EDM's levels: network calls, the first two and the last level",
        "DDPM, 250 steps",
        (79, 80.0, 69.45094603719689, 0.002),
        tread_levels,
    ),
    Rule(
        "TREAD",
        "tokens on the route: of 256 and 49 at 0.5, of 25 and 64 at 0.3",
        "128, 24, 17, 44",
        (128, 25, 18, 45),
        tread_kept,
    ),
    Rule(
        "U-ViT",
        "DPM-Solver of order 3 in single steps, 10 calls, on Gaussian data",
        "-0.0404, 0.534, 0.773, 1.203 (2M at whole times)",
        (0.20102701, 0.58765072, 0.74874389, 1.03871179),
        lambda: uvit_end(10),
        within=3e-5,
    ),
    Rule(
        "U-ViT",
        "the same with 50 calls",
        "0.0444, 0.553, 0.764, 1.146",
        (0.06537879, 0.55717069, 0.76208389, 1.13093092),
        lambda: uvit_end(50),
        within=3e-5,
    ),
    Rule(
        "DiT, MDT",
        "respaced times at 27 steps, the 14th and its neighbours (283 of the counts 2 to 1,000 had "
        "others)",
        "461, 500, 538",
        (461, 499, 538),
        lambda: visited("dit", 27, (12, 13, 14)),
        within=0,
    ),
    Rule(
        "MaskDM",
        "times at 26 steps, the 13th and its neighbours (84 of the counts had others)",
        "460, 499, 537",
        (460, 498, 537),
        lambda: visited("maskdm", 26, (11, 12, 13)),
        within=0,
    ),
    Rule(
        "MaskDM",
        "learning rates of the first five steps without a warm-up",
        "0, 2e-4, 2e-4, 2e-4, 2e-4",
        (2e-4, 2e-4, 2e-4, 2e-4, 2e-4),
        lambda: maskdm_first_rates(0),
    ),
    Rule(
        "MaskDM",
        "the same with a warm-up of 4",
        "0, 5e-5, 1e-4, 1.5e-4, 2e-4",
        (0.0, 5e-5, 1e-4, 1.5e-4, 2e-4),
        lambda: maskdm_first_rates(4),
    ),
    Rule(
        "MDT v2",
        "mask ratios of eight forward passes in one step",
        "1",
        (8,),
        ratios_of_a_step,
    ),
)
