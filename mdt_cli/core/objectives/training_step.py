"""One micro-batch of training: what is drawn for it, and the loss of each of its views.

Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.masking.tokens import Selector, TokenSubset
from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.losses import normalised_patches, region_mean

Network = Callable[..., Tensor]
# (scaled latents, the number the time embedding reads, labels) -> the network's raw answer.
Teacher = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Term:
    """A mean over `region` of the distance to `target`, times `weight`.

    target: "objective", or plain squares of the clean estimate against "clean", "noisy",
    "teacher_noisy" or "teacher_clean". normalise: "patch" gives target patches mean 0, variance 1.
    """

    region: str = "all"
    target: str = "objective"
    normalise: str = "none"
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What a log calls it: region and target, where they say something."""
        said = [self.region] if self.region != "all" else []
        return "-".join(said + ([self.target] if self.target != "objective" else []))


@dataclass(frozen=True)
class View:
    """One pass on `tokens` "all" or "kept"; `clean_fill`: dropped places show clean latents."""

    tokens: str
    terms: tuple[Term, ...] = (Term(),)
    clean_fill: bool = False


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

    def pin(self) -> "ViewDraw":
        """In memory that a GPU fetches from without making the host wait."""
        subset = self.subset
        if subset is not None:
            subset = TokenSubset(subset.kept_BK.pin_memory(), subset.num_tokens)
        y_B = None if self.y_B is None else self.y_B.pin_memory()
        return ViewDraw(self.noise.pin_memory(), y_B, subset)


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
    """Weighted sum of the terms, per sample [B]."""
    losses = term_losses(network, objective, view, draw, clean, t_B, patch_size)
    return sum_terms(view, losses)


def sum_terms(view: View, losses: Sequence[Tensor]) -> Tensor:
    """The terms with their weights, summed."""
    total = view.terms[0].weight * losses[0]
    for term, loss in zip(view.terms[1:], losses[1:], strict=True):
        total = total + term.weight * loss
    return total


def term_losses(
    network: Network,
    objective: Objective,
    view: View,
    draw: ViewDraw,
    clean: Tensor,
    t_B: Tensor,
    patch_size: int,
    teacher: Teacher | None = None,
) -> list[Tensor]:
    """Each term's loss per sample [B], before its weight, from one forward pass.

    Times that do not lie beside the latents are taken there first, which waits for the device.
    """
    t_B = t_B.to(clean.device)
    noisy = objective.add_noise(clean, draw.noise, t_B)
    x, t_embed_B = objective.network_input(noisy, t_B)
    # Noise-free latents are scaled as the objective scales them at time 0.
    scaled_clean = objective.network_input(clean, torch.zeros_like(t_B))[0]
    if view.clean_fill and draw.subset is not None:
        output = network(x, t_embed_B, draw.y_B, draw.subset, scaled_clean)
    else:
        output = network(x, t_embed_B, draw.y_B, draw.subset)

    def target_of(term: Term) -> Tensor:
        match term.target:
            case "clean":
                target = clean
            case "noisy":
                target = noisy
            case "teacher_noisy" | "teacher_clean":
                assert teacher is not None
                seen, fed = (noisy, x) if term.target == "teacher_noisy" else (clean, scaled_clean)
                with torch.no_grad():
                    answer = teacher(fed, t_embed_B, draw.y_B)
                    target = objective.denoised(answer.float(), seen, t_B)
            case _:
                raise ValueError(f"no such target: {term.target}")
        return normalised_patches(target, patch_size) if term.normalise == "patch" else target

    losses = []
    for term in view.terms:
        if term.target == "objective":
            error = objective.error(output, clean, draw.noise, noisy, t_B, draw.y_B)
        else:
            error = (objective.denoised(output.float(), noisy, t_B) - target_of(term)).square()
        losses.append(region_mean(error, term.region, draw.subset, patch_size))
    return losses
