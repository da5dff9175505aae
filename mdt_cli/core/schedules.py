"""Learning rate and mask ratio as pure functions of the step."""

import math
from dataclasses import dataclass

import torch


def lr_factor(step: int, steps: int, warmup: int, kind: str, final: float) -> float:
    """Multiplier of the learning rate in optimizer step `step` (from 0) of `steps`.

    Linear warm-up reaches 1 in step `warmup`; the first step is never 0. `cosine` falls to
    `final` in the last step.
    """
    ramp = min(1.0, (step + 1) / (warmup + 1))
    if kind == "constant":
        return ramp
    progress = min(1.0, max(0, step - warmup) / max(1, steps - 1 - warmup))
    return ramp * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class MaskRatio:
    """Share of tokens dropped: a draw from [low, high) per step, shared by the whole batch."""

    low: float
    high: float

    def draw(self, generator: torch.Generator) -> float:
        """One ratio; a constant when low == high (the generator is then not used)."""
        if self.low == self.high:
            return self.low
        return self.low + (self.high - self.low) * float(torch.rand((), generator=generator))
