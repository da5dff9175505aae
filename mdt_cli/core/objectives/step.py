"""One micro-batch of training: what is drawn for it, and the loss of each of its views.

Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.losses import region_mean
from mdt_cli.core.tokens import Selector, TokenSubset

Network = Callable[[Tensor, Tensor, Tensor | None, TokenSubset | None], Tensor]


@dataclass(frozen=True)
class View:
    """One pass: `tokens` "all" or "kept"; the loss over the region `loss`, times `weight`."""

    tokens: str
    loss: str
    weight: float


@dataclass(frozen=True)
class ViewDraw:
    """The randomness of one view; views of a step share images and times and nothing else."""

    noise: Tensor
    y_B: Tensor | None
    subset: TokenSubset | None

    def to(self, device: torch.device) -> "ViewDraw":
        return ViewDraw(
            self.noise.to(device, non_blocking=True),
            None if self.y_B is None else self.y_B.to(device, non_blocking=True),
            None if self.subset is None else self.subset.to(device),
        )


def draw_view(
    view: View,
    shape: tuple[int, ...],
    y_B: Tensor | None,
    null_class: int,
    class_dropout: float,
    selector: Selector,
    grid: tuple[int, int],
    ratio: float,
    generator: torch.Generator,
) -> ViewDraw:
    """Noise, dropped labels and kept tokens, in this order, from `generator` alone (CPU)."""
    noise = torch.randn(shape, generator=generator)
    if y_B is not None:
        dropped_B = torch.rand(shape[0], generator=generator) < class_dropout
        y_B = torch.where(dropped_B, null_class, y_B)
    subset = None
    if view.tokens == "kept":
        subset = selector.draw(shape[0], grid, ratio, generator)
    return ViewDraw(noise, y_B, subset)


def view_loss(
    network: Network,
    objective: Objective,
    view: View,
    draw: ViewDraw,
    clean: Tensor,
    t_B: Tensor,
    patch_size: int,
) -> Tensor:
    """Loss per sample [B], before the view's weight."""
    noisy = objective.add_noise(clean, draw.noise, t_B)
    x, t_embed_B = objective.network_input(noisy, t_B)
    output = network(x, t_embed_B, draw.y_B, draw.subset)
    error = objective.error(output, clean, draw.noise, noisy, t_B)
    return region_mean(error, view.loss, draw.subset, patch_size)
