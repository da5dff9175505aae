"""Do two networks answer the same? Asked before an export is let out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.trained import Trained

LARGEST = 1e-4
IMAGES = 4

# (x [B, C, H, W], time as the network reads it [B], y [B] or None) -> the network's answer.
Answer = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a network is asked: latents, the times its embedding reads, classes."""

    x: Tensor
    t: Tensor
    y: Tensor | None


def fixed_inputs(trained: Trained) -> Inputs:
    """Noisy latents over the range of training times; the last image has the null class."""
    shape = tuple(trained.facts["latent_shape"])
    generator = stream("export parity")
    clean = 0.5 * torch.randn((IMAGES, *shape), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    t_B = trained.objective.quantile_time((torch.arange(IMAGES) + 0.5) / IMAGES)
    noisy = trained.objective.add_noise(clean, noise, t_B)
    x, read_B = trained.objective.network_input(noisy, t_B)
    null = trained.num_classes
    if not null:
        return Inputs(x, read_B, None)
    y_B = torch.randint(null, (IMAGES,), generator=generator)
    y_B[-1] = null
    return Inputs(x, read_B, y_B)


@torch.no_grad()
def largest_difference(ours: Answer, theirs: Answer, inputs: Inputs) -> float:
    """Max |a - b| over all values; infinity where an answer is not finite."""
    first = ours(inputs.x, inputs.t, inputs.y)
    second = theirs(inputs.x, inputs.t, inputs.y)
    if first.shape != second.shape:
        return float("inf")
    difference = (first - second).abs().max()
    return float(difference) if bool(difference.isfinite()) else float("inf")


def require_parity(difference: float, what: str) -> None:
    if difference > LARGEST:
        raise MdtError(
            f"{what} answers differently from the trained network: largest difference "
            f"{difference:.2g}, allowed {LARGEST:g}",
            "nothing was written; please report this with the output of mdt inspect",
        )
