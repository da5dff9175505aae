"""One micro-batch of training: what is drawn for it, and the loss of each of its views.

Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.batch import Answer, Batch, Condition
from mdt_cli.core.masking.tokens import Selector, TokenSubset
from mdt_cli.core.objectives.base import Loss
from mdt_cli.core.objectives.losses import normalised_patches, region_mean

# (scaled latents, the number that the time embedding reads, labels, kept tokens, and the clean
# latents where a view shows them at dropped positions) -> the answer.
Network = Callable[..., Answer]
# (scaled latents, the network's condition vector) -> a raw output.
Teacher = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Term:
    """A mean over `region` of the distance to `target`, times `weight`.

    target: "objective", or plain squares of the clean estimate against "clean", "noisy",
    "teacher_noisy" or "teacher_clean". normalise: "patch" gives target patches mean 0, variance 1.
    head: whose answer, that of the "final" or the "early" head.
    """

    region: str = "all"
    target: str = "objective"
    normalise: str = "none"
    weight: float = 1.0
    head: str = "final"

    @property
    def name(self) -> str:
        """Its name in a log: head, region and target where they are not the defaults."""
        defaults = (("final", self.head), ("all", self.region), ("objective", self.target))
        return "-".join(value for default, value in defaults if value != default)


@dataclass(frozen=True)
class View:
    """One pass on `tokens` "all" or "kept"; `clean_fill`: clean latents at dropped positions."""

    tokens: str
    terms: tuple[Term, ...] = (Term(),)
    clean_fill: bool = False


@dataclass(frozen=True)
class ViewDraw:
    """The randomness of one view; views of a step share images and times and nothing else."""

    noise: Tensor
    condition: Condition
    subset: TokenSubset | None

    def pin(self) -> "ViewDraw":
        """In memory that a GPU fetches from without making the host wait."""
        subset = self.subset
        if subset is not None:
            subset = TokenSubset(subset.kept_BK.pin_memory(), subset.num_tokens)
        return ViewDraw(self.noise.pin_memory(), self.condition.pin(), subset)


@dataclass(frozen=True)
class ViewSource:
    """What all views of a run are drawn with. `class_dropout`: the share of null classes."""

    selector: Selector
    grid: tuple[int, int]
    null_class: int
    class_dropout: float

    def draw(
        self,
        view: View,
        shape: tuple[int, ...],
        condition: Condition,
        ratio: float,
        generator: torch.Generator,
    ) -> ViewDraw:
        """Noise, dropped labels and kept tokens, in this order, from `generator` alone (CPU)."""
        noise = torch.randn(shape, generator=generator)
        if condition.y_B is not None:
            dropped_B = torch.rand(shape[0], generator=generator) < self.class_dropout
            condition = condition.dropped(dropped_B, self.null_class)
        subset = None
        if view.tokens == "kept":
            subset = self.selector.draw(shape[0], self.grid, ratio, generator)
        return ViewDraw(noise, condition, subset)


def view_loss(network: Network, loss: Loss, view: View, batch: Batch, patch_size: int) -> Tensor:
    """Weighted sum of the terms, per sample [B]."""
    return sum_terms(view, term_losses(network, loss, view, batch, patch_size))


def sum_terms(view: View, losses: Sequence[Tensor]) -> Tensor:
    """The terms with their weights, summed."""
    total = view.terms[0].weight * losses[0]
    for term, value in zip(view.terms[1:], losses[1:], strict=True):
        total = total + term.weight * value
    return total


def term_losses(
    network: Network,
    loss: Loss,
    view: View,
    batch: Batch,
    patch_size: int,
    teacher: Teacher | None = None,
) -> list[Tensor]:
    """Each term's loss per sample [B], before its weight, from one forward pass."""
    clean, t_B, y_B, subset = batch.clean, batch.t_B, batch.condition.y_B, batch.subset
    noisy = loss.noisy(batch)
    x, t_embed_B = loss.network_input(noisy, t_B)
    # Noise-free latents are scaled as the loss scales them at time 0.
    scaled_clean = loss.network_input(clean, torch.zeros_like(t_B))[0]
    if view.clean_fill and subset is not None:
        answer = network(x, t_embed_B, y_B, subset, scaled_clean)
    else:
        answer = network(x, t_embed_B, y_B, subset)

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
                    taught = teacher(fed, answer.condition)
                    target = _clean_estimate(loss, taught, seen, t_B)
            case _:
                raise ValueError(f"no such target: {term.target}")
        return normalised_patches(target, patch_size) if term.normalise == "patch" else target

    losses = []
    for term in view.terms:
        output = answer.final
        if term.head == "early":
            assert answer.early is not None
            output = answer.early
        if term.target == "objective":
            error = loss.error(output, batch, noisy)
        else:
            error = (_clean_estimate(loss, output, noisy, t_B) - target_of(term)).square()
        losses.append(region_mean(error, term.region, subset, patch_size))
    return losses


def _clean_estimate(loss: Loss, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
    """In float32. Without noise the answer is the estimate."""
    diffusion = loss.diffusion
    return output.float() if diffusion is None else diffusion.denoised(output.float(), noisy, t_B)
