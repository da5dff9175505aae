"""The learning rate as a pure function of the step, so that a resumed run continues it."""

import math


def lr_factor(
    step: int,
    steps: int,
    warmup: int,
    kind: str,
    final: float,
    from_zero: bool = False,
    tail: float = 0.0,
) -> float:
    """Multiplier of the learning rate in optimizer step `step` (from 0) of `steps`.

    Linear warm-up reaches 1 in step `warmup`; the first step is 0 only with `from_zero`, which
    then holds without a warm-up as well. `cosine` falls to `final` in the last step; steps
    after it have `tail`, or `final` where that is 0.
    """
    ramp = step / max(1, warmup) if from_zero else (step + 1) / (warmup + 1)
    ramp = min(1.0, ramp)
    if kind == "constant":
        return ramp
    if step >= steps and tail:
        return tail
    progress = min(1.0, max(0, step - warmup) / max(1, steps - 1 - warmup))
    return ramp * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)
