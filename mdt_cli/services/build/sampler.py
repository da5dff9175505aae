"""From a `[sampling]` table to a sampler, and from seeds to latents."""

from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

import torch
from torch import Tensor

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    InternalGuidanceConfig,
    IntervalGuidanceConfig,
    NoGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.core.batch import Answer, Condition
from mdt_cli.core.levels import Denoise, LevelOptions, final
from mdt_cli.core.objectives.base import Diffusion
from mdt_cli.core.sampling.ddpm import Chain, Estimate, StepNoise, clipped, ddim_steps, ddpm_steps
from mdt_cli.core.sampling.dpm_solver import dpm_solver_pp_steps
from mdt_cli.core.sampling.guidance import (
    Channels,
    Estimated,
    Scale,
    constant,
    extrapolated,
    guided,
    interval,
    of_conditions,
    power_cosine,
)
from mdt_cli.core.sampling.ode import euler_steps, heun_steps
from mdt_cli.core.sampling.seeds import SeededNoise, drawn_labels
from mdt_cli.core.sampling.singlestep import singlestep_steps
from mdt_cli.errors import MdtError

# (noised latents [B, C, H, W], times [B], labels [B] or None) -> the answer.
Network = Callable[[Tensor, Tensor, Tensor | None], Answer]
# (standard normal noise [B, C, H, W], condition of each image, noise of each step) -> latents.
Sampler = Callable[[Tensor, Condition, StepNoise], Tensor]
# As a sampler, step by step: the state after each step, the last of which are the latents.
SamplerSteps = Callable[[Tensor, Condition, StepNoise], Iterator[Tensor]]


def generate(
    network: Network,
    diffusion: Diffusion,
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
    run = final(generate_steps)
    return run(
        network, diffusion, sampling, latent_shape, num_classes, seeds, labels, device
    ).float()


def generate_steps(
    network: Network,
    diffusion: Diffusion,
    sampling: SamplingConfig,
    latent_shape: tuple[int, int, int],
    num_classes: int,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """As `generate`, the state after each of `sampling.steps` steps; the last are the latents."""
    if num_classes and labels is None:
        labels = drawn_labels(seeds, num_classes)
    condition = Condition(torch.tensor(labels, device=device) if num_classes else None)
    noise = SeededNoise(seeds, latent_shape, num_classes)
    steps = sampler_steps_of(network, diffusion, sampling, num_classes)
    yield from steps(noise.start().to(device), condition, lambda: noise.step().to(device))


def sampler_of(
    network: Network, diffusion: Diffusion, sampling: SamplingConfig, num_classes: int
) -> Sampler:
    """The sampler of a network; MdtError where the solver does not fit its diffusion."""
    run = final(sampler_steps_of(network, diffusion, sampling, num_classes))
    return lambda noise, condition, step_noise: run(noise, condition, step_noise).float()


def sampler_steps_of(
    network: Network, diffusion: Diffusion, sampling: SamplingConfig, num_classes: int
) -> SamplerSteps:
    """The same for a caller that does something between `sampling.steps` steps."""
    check_sampling(sampling, diffusion)
    chain = diffusion.chain
    scale, channels = guidance_of(sampling, diffusion)
    inner = internal_scale(sampling, diffusion)
    levels = diffusion.levels(
        LevelOptions(
            sampling.steps,
            sampling.spacing,
            sampling.sigma_min,
            sampling.sigma_max,
            sampling.rho,
            sampling.shift,
            between=sampling.solver == "dpm++3s",
        )
    )

    def conditioned(x: Tensor, t_B: Tensor, condition: Condition) -> Estimated:
        x_in, t_embed_B = diffusion.network_input(x, t_B)
        answer = network(x_in, t_embed_B, condition.y_B)
        fraction = None if chain is None else chain.variance_fraction(answer.final)
        clean = diffusion.denoised(answer.final, x, t_B)
        strength = inner(t_B[0].item())
        if strength != 1:
            assert answer.early is not None, "guidance internal needs an early head"
            early = diffusion.denoised(answer.early, x, t_B)
            clean = extrapolated(clean, early, strength, "all")
        return clean, fraction

    def estimate_for(condition: Condition) -> Estimate:
        if condition.y_B is None or scale is None:
            return lambda x, t_B: conditioned(x, t_B, condition)
        named = {"own": condition, "null": condition.null(num_classes)}
        return guided(of_conditions(conditioned, named), scale, channels)

    @torch.no_grad()
    def steps(noise: Tensor, condition: Condition, step_noise: StepNoise) -> Iterator[Tensor]:
        estimate = estimate_for(condition)
        if sampling.clip and sampling.solver != "ddim":
            estimate = clipped(estimate)
        denoise: Denoise = lambda x, t_B: estimate(x, t_B)[0]  # noqa: E731
        match sampling.solver:
            case "ddpm" | "ddim":
                assert chain is not None
                walk = Chain(chain.alphas_cumprod, sampling.steps, sampling.spacing)
                if sampling.solver == "ddpm":
                    yield from ddpm_steps(estimate, noise, walk, step_noise)
                else:
                    eta, clip = sampling.eta, sampling.clip
                    yield from ddim_steps(denoise, noise, walk, eta, step_noise, clip)
            case "euler":
                yield from euler_steps(denoise, noise, levels)
            case "heun":
                yield from heun_steps(denoise, noise, levels)
            case "dpm++":
                yield from dpm_solver_pp_steps(denoise, noise, levels)
            case "dpm++3s":
                yield from singlestep_steps(denoise, noise, levels)
            case _:
                assert_never(sampling.solver)

    return steps


def check_sampling(sampling: SamplingConfig, diffusion: Diffusion) -> None:
    """MdtError where solver, steps or eta cannot work with this diffusion."""
    solver, steps, chain = sampling.solver, sampling.steps, diffusion.chain
    if chain is not None and steps > chain.num_timesteps:
        raise MdtError(
            f"{steps} sampling steps are more than the {chain.num_timesteps} times "
            "the network was trained on",
            f"ask for at most {chain.num_timesteps} steps",
        )
    if chain is None and solver in ("ddpm", "ddim"):
        raise MdtError(
            f'the solver "{solver}" is for the epsilon objective, '
            f"but the network was trained with {diffusion.kind}",
            "use heun, euler or dpm++",
        )
    if solver == "ddim" and sampling.eta > 1:
        raise MdtError(
            f"sampling.eta {sampling.eta:g} puts back more noise than a step has",
            "eta is between 0 (deterministic) and 1 (as much as DDPM)",
        )
    if "sigma_max" in diffusion.level_options and sampling.sigma_min >= sampling.sigma_max:
        raise MdtError(
            f"sampling.sigma_min {sampling.sigma_min:g} is not below "
            f"sampling.sigma_max {sampling.sigma_max:g}"
        )


def guidance_of(sampling: SamplingConfig, diffusion: Diffusion) -> tuple[Scale | None, Channels]:
    """The scale of classifier-free guidance at every time, None for none, and its channels."""
    guidance = sampling.guidance
    match guidance:
        case NoGuidanceConfig():
            return None, "all"
        case ConstantGuidanceConfig():
            return constant(guidance.scale), guidance.channels
        case PowerCosineGuidanceConfig():
            scale = power_cosine(guidance.scale, guidance.power, diffusion.noise_share)
            return scale, guidance.channels
        case IntervalGuidanceConfig():
            scale = interval(guidance.scale, guidance.low, guidance.high, diffusion.noise_ratio)
            return scale, guidance.channels
        case InternalGuidanceConfig():
            low, high = guidance.cfg_low, guidance.cfg_high
            scale = interval(guidance.cfg_scale, low, high, diffusion.noise_ratio)
            return None if guidance.cfg_scale == 1 else scale, guidance.channels
        case _:
            assert_never(guidance)


def internal_scale(sampling: SamplingConfig, diffusion: Diffusion) -> Scale:
    """The scale at every time by which the early head's estimate is left behind; 1: not at all."""
    guidance = sampling.guidance
    if not isinstance(guidance, InternalGuidanceConfig):
        return constant(1.0)
    return interval(guidance.scale, guidance.low, guidance.high, diffusion.noise_ratio)
