"""From a `[sampling]` table to a sampler, and from seeds to latents."""

from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import Tensor

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    IntervalGuidanceConfig,
    NoGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.classification import Classification
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.reconstruction import Reconstruction
from mdt_cli.core.sampling.ddpm import Chain, Estimate, StepNoise, clipped, ddim, ddpm
from mdt_cli.core.sampling.dpm_solver import dpm_solver_pp
from mdt_cli.core.sampling.guidance import (
    Channels,
    LabelledEstimate,
    Scale,
    classifier_free,
    constant,
    interval,
    power_cosine,
)
from mdt_cli.core.sampling.levels import (
    Denoise,
    Levels,
    ddpm_levels,
    edm_levels,
    flow_levels,
)
from mdt_cli.core.sampling.ode import euler, heun
from mdt_cli.core.sampling.seeds import SeededNoise, drawn_labels
from mdt_cli.errors import MdtError

# (noised latents [B, C, H, W], times [B], labels [B] or None) -> the raw answer.
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
# (standard normal noise [B, C, H, W], labels [B] or None, noise of each step) -> latents.
Sampler = Callable[[Tensor, Tensor | None, StepNoise], Tensor]


def draw(
    network: Network,
    objective: Objective,
    sampling: SamplingConfig,
    latent_shape: tuple[int, int, int],
    num_classes: int,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    device: torch.device,
) -> Tensor:
    """Latents float32 [len(seeds), C, H, W] on `device`, as one batch.

    Without labels a network with classes gets those that the seeds draw. A network without
    classes is sampled without guidance.
    """
    if num_classes and labels is None:
        labels = drawn_labels(seeds, num_classes)
    y_B = torch.tensor(labels, device=device) if num_classes else None
    noise = SeededNoise(seeds, latent_shape, num_classes)
    sampler = sampler_of(network, objective, sampling, num_classes)
    return sampler(noise.start().to(device), y_B, lambda: noise.step().to(device))


def sampler_of(
    network: Network, objective: Objective, sampling: SamplingConfig, num_classes: int
) -> Sampler:
    """The sampler of a network; MdtError where the solver does not fit its objective."""
    check_fits(sampling, objective)
    scale, channels = guidance_of(sampling, objective)
    levels = _levels(sampling, objective)

    def labelled(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_in, t_embed_B = objective.network_input(x, t_B)
        output = network(x_in, t_embed_B, y_B)
        fraction = objective.variance_fraction(output) if isinstance(objective, Epsilon) else None
        return objective.denoised(output, x, t_B), fraction

    def estimate_for(y_B: Tensor | None) -> Estimate:
        if y_B is None or scale is None:
            return lambda x, t_B: labelled(x, t_B, y_B)
        of_labels: LabelledEstimate = labelled
        return classifier_free(of_labels, y_B, num_classes, scale, channels)

    @torch.no_grad()
    def sample(noise: Tensor, y_B: Tensor | None, step_noise: StepNoise) -> Tensor:
        estimate = estimate_for(y_B)
        if sampling.clip and sampling.solver != "ddim":
            estimate = clipped(estimate)
        denoise: Denoise = lambda x, t_B: estimate(x, t_B)[0]  # noqa: E731
        match sampling.solver:
            case "ddpm" | "ddim":
                assert isinstance(objective, Epsilon)
                chain = Chain(objective.alphas_cumprod, sampling.steps, sampling.spacing)
                if sampling.solver == "ddpm":
                    return ddpm(estimate, noise, chain, step_noise).float()
                return ddim(denoise, noise, chain, sampling.eta, step_noise, sampling.clip).float()
            case "euler":
                return euler(denoise, noise, levels).float()
            case "heun":
                return heun(denoise, noise, levels).float()
            case "dpm++":
                return dpm_solver_pp(denoise, noise, levels).float()
            case _:
                assert_never(sampling.solver)

    return sample


def check_fits(sampling: SamplingConfig, objective: Objective) -> None:
    """MdtError where solver, steps or eta cannot work with this objective."""
    solver, steps = sampling.solver, sampling.steps
    if isinstance(objective, Classification):
        raise MdtError(
            "this network names the class of images and makes none",
            "sample from the run it was finetuned from, or from one of another recipe",
        )
    if isinstance(objective, Reconstruction):
        raise MdtError(
            "this network restores hidden parts of images and makes none by itself",
            "mdt sample RUN OUT --reconstruct IMAGES shows what it can do",
        )
    if isinstance(objective, Epsilon):
        if steps > objective.num_timesteps:
            raise MdtError(
                f"{steps} sampling steps are more than the {objective.num_timesteps} times "
                "the network was trained on",
                f"ask for at most {objective.num_timesteps} steps",
            )
    elif solver in ("ddpm", "ddim"):
        raise MdtError(
            f'the solver "{solver}" is for the epsilon objective, '
            f"but the network was trained with {objective.kind}",
            "use heun, euler or dpm++",
        )
    if solver == "ddim" and sampling.eta > 1:
        raise MdtError(
            f"sampling.eta {sampling.eta:g} puts back more noise than a step has",
            "eta is between 0 (deterministic) and 1 (as much as DDPM)",
        )
    if isinstance(objective, Edm) and sampling.sigma_min >= sampling.sigma_max:
        raise MdtError(
            f"sampling.sigma_min {sampling.sigma_min:g} is not below "
            f"sampling.sigma_max {sampling.sigma_max:g}"
        )


def _levels(sampling: SamplingConfig, objective: Objective) -> Levels:
    match objective:
        case Epsilon():
            return ddpm_levels(objective.alphas_cumprod, sampling.steps, sampling.spacing)
        case Edm():
            return edm_levels(sampling.steps, sampling.sigma_min, sampling.sigma_max, sampling.rho)
        case Flow():
            return flow_levels(sampling.steps)
        case _:
            raise ValueError(f"no noise levels for the objective {objective.kind}")


def guidance_of(sampling: SamplingConfig, objective: Objective) -> tuple[Scale | None, Channels]:
    """The scale at every time, None where there is no guidance, and the channels it acts on."""
    guidance = sampling.guidance
    match guidance:
        case NoGuidanceConfig():
            return None, "all"
        case ConstantGuidanceConfig():
            return constant(guidance.scale), guidance.channels
        case PowerCosineGuidanceConfig():
            share = _noise_share(objective)
            return power_cosine(guidance.scale, guidance.power, share), guidance.channels
        case IntervalGuidanceConfig():
            ratio = _noise_ratio(objective)
            scale = interval(guidance.scale, guidance.low, guidance.high, ratio)
            return scale, guidance.channels
        case _:
            assert_never(guidance)


def _noise_share(objective: Objective) -> Callable[[float], float]:
    """A time as a number from 1 (noise) to 0 (image); EDM has no end, so sigma / (1 + sigma)."""
    match objective:
        case Epsilon():
            return lambda t: t / objective.num_timesteps
        case Edm():
            return lambda t: t / (1 + t)
        case _:
            return lambda t: t


def _noise_ratio(objective: Objective) -> Callable[[float], float]:
    """A time as the noise-to-signal ratio sigma / alpha."""
    match objective:
        case Epsilon():
            table = ((1 - objective.alphas_cumprod) / objective.alphas_cumprod).sqrt().tolist()
            return lambda t: float(table[int(t)])
        case Edm():
            return lambda t: t
        case _:
            return lambda t: t / (1 - t) if t < 1 else float("inf")
