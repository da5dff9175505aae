"""DPM-Solver++ through diffusers, on our own noise levels."""

import torch
from torch import Tensor

from mdt_cli.core.sampling.levels import Denoise, Level, Levels


def dpm_solver_pp(denoise: Denoise, noise_BCHW: Tensor, levels: Levels) -> Tensor:
    """DPM-Solver++(2M), midpoint form; first and last step of first order (Lu et al. 2022).

    The update is diffusers' `DPMSolverMultistepScheduler`, told clean estimates. Its own noise
    levels are replaced by `levels`: theirs come from a float32 beta table, which cannot hold EDM's
    smallest sigmas, and start short of t = 1 for flow. DDPM and EDM are solved as the same
    variance-preserving process, which the method cannot tell apart; flow as alpha = 1 - t,
    sigma = t. The state is float32, as the scheduler keeps it. One network call a step.
    """
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        use_flow_sigmas=levels.straight,
    )
    scheduler.set_timesteps(levels.steps)
    scheduler.sigmas = torch.tensor([stop.tau for stop in levels.stops], dtype=torch.float64)
    # Count steps instead of looking times up: rounded times can repeat.
    scheduler.set_begin_index(0)

    def signal(level: Level) -> float:
        """Share of the clean image in the scheduler's state: x = signal (clean + tau noise)."""
        return 1.0 if levels.straight else float((1 + level.tau**2) ** -0.5)

    x = (noise_BCHW.double() * levels.start * signal(levels.stops[0])).float()
    for index, level in enumerate(levels.stops[:-1]):
        t_B = torch.full((x.shape[0],), level.t, device=x.device)
        clean = denoise(x * (level.scale / signal(level)), t_B).float()
        (x,) = scheduler.step(clean, scheduler.timesteps[index], x, return_dict=False)
    return x.double()
