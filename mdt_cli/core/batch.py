"""What goes into a forward pass (images, times, noise, condition, kept tokens) and what comes out.

Axes: B batch, C channels, H W latent size, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mdt_cli.core.masking.tokens import TokenSubset


@dataclass(frozen=True)
class Condition:
    """What each image of a batch is to show; `y_B` None: the network knows no classes."""

    y_B: Tensor | None = None

    def null(self, null_class: int) -> "Condition":
        """As many images of which nothing is said; `null_class` stands for no class."""
        return Condition(None if self.y_B is None else torch.full_like(self.y_B, null_class))

    def dropped(self, where_B: Tensor, null_class: int) -> "Condition":
        """Null in these rows, for classifier-free guidance (Ho & Salimans 2022, algorithm 1)."""
        return Condition(None if self.y_B is None else torch.where(where_B, null_class, self.y_B))

    def to(self, device: torch.device) -> "Condition":
        """On `device`, without making the host wait where memory is pinned."""
        return Condition(None if self.y_B is None else self.y_B.to(device, non_blocking=True))

    def pin(self) -> "Condition":
        """In memory that a GPU fetches from without making the host wait."""
        return Condition(None if self.y_B is None else self.y_B.pin_memory())


class Answer(NamedTuple):
    """What a network gives back.

    final: its raw output, [B, C, H, W] or a logit per class [B, classes]. condition: the vector
    [B, D] that modulated it, None where nothing does. early: the raw output of the early head,
    None where there is none; zero at positions that it did not see.
    """

    final: Tensor
    condition: Tensor | None = None
    early: Tensor | None = None


def joined(conditions: Sequence[Condition]) -> Condition:
    """One batch after the other; either all of them have classes or none has."""
    labels = [condition.y_B for condition in conditions if condition.y_B is not None]
    return Condition(torch.cat(labels) if labels else None)


@dataclass(frozen=True)
class Batch:
    """Latents [B, C, H, W], times [B], noise like the latents; `subset` None: every token."""

    clean: Tensor
    t_B: Tensor
    noise: Tensor
    condition: Condition = Condition()
    subset: TokenSubset | None = None

    def to(self, device: torch.device) -> "Batch":
        """On `device`, without making the host wait where memory is pinned."""
        return replace(
            self,
            clean=self.clean.to(device, non_blocking=True),
            t_B=self.t_B.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
            condition=self.condition.to(device),
            subset=None if self.subset is None else self.subset.to(device),
        )
