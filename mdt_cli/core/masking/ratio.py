"""Mask-ratio schedules: pure functions of the step, so that a resumed run continues them."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class MaskRatio(ABC):
    """Share of tokens dropped in optimizer step `step` (from 0) of `steps`."""

    # Whether each micro-batch of a step has a ratio of its own; else the whole batch shares one.
    per_micro_batch: bool = False

    @abstractmethod
    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        """The range [low, high) of this step's ratio; equal ends where it is not random."""

    @abstractmethod
    def extremes(self, steps: int) -> tuple[float, float]:
        """The lowest and the highest bound of all steps."""

    def at(self, step: int, steps: int, generator: "torch.Generator") -> float:
        """The ratio of this step; only a random one uses the generator."""
        low, high = self.bounds_at(step, steps)
        if low == high:
            return low
        # Imported here: printing a schedule does not need torch.
        import torch

        return low + (high - low) * float(torch.rand((), generator=generator))

    def mean(self, steps: int) -> float:
        """The mean over a run; sampled at a thousand steps where there are more."""
        count = min(steps, 1000)
        bounds = (self.bounds_at(k * steps // count, steps) for k in range(count))
        return sum((low + high) / 2 for low, high in bounds) / count


@dataclass(frozen=True)
class ConstantRatio(MaskRatio):
    """The same ratio in every step."""

    value: float

    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        return self.value, self.value

    def extremes(self, steps: int) -> tuple[float, float]:
        return self.value, self.value


@dataclass(frozen=True)
class UniformRatio(MaskRatio):
    """One draw from [low, high) per step, or per micro-batch of it (MDT v2)."""

    low: float
    high: float
    per_micro_batch: bool = False

    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        return self.low, self.high

    def extremes(self, steps: int) -> tuple[float, float]:
        return self.low, self.high

    def mean(self, steps: int) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class PiecewiseRatio(MaskRatio):
    """Straight lines through (share of the steps, ratio), flat before the first and after the last.

    Shares do not fall; two equal ones are a jump, and the later ratio holds at that share.
    """

    points: tuple[tuple[float, float], ...]

    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        share = step / steps
        after = bisect_right([point for point, _ in self.points], share)
        if after in (0, len(self.points)):
            ratio = self.points[max(0, after - 1)][1]
            return ratio, ratio
        (left, start), (right, end) = self.points[after - 1 : after + 1]
        ratio = start + (end - start) * (share - left) / (right - left)
        return ratio, ratio

    def extremes(self, steps: int) -> tuple[float, float]:
        # Lines bend at points alone, so the extremes are at the steps beside one.
        beside = {int(share * steps) + d for share, _ in self.points for d in (-1, 0, 1)}
        candidates = {0, steps - 1} | {k for k in beside if 0 <= k < steps}
        ratios = [self.bounds_at(step, steps)[0] for step in candidates]
        return min(ratios), max(ratios)


@dataclass(frozen=True)
class CosineGrowthRatio(MaskRatio):
    """From `start` to `end` over the first two thirds of the steps, then `end` (LMD).

    The growth is that of the noise of a cosine diffusion schedule (Nichol & Dhariwal 2021, eq. 17).
    """

    start: float
    end: float

    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        rising = max(1, 2 * steps // 3)
        left = cosine_signal(min(step / rising, 1.0)) / cosine_signal(0.0)
        ratio = self.start + (self.end - self.start) * (1 - left)
        return ratio, ratio

    def extremes(self, steps: int) -> tuple[float, float]:
        return _ends(self, steps)


@dataclass(frozen=True)
class CosineDecayRatio(MaskRatio):
    """From `start` towards `end` along cos(pi/2 step/steps)^power (MaskDiT's last stage).

    Near the end the ratio falls below what a number beside 1 can hold, and no token is dropped.
    """

    start: float
    end: float
    power: float

    def bounds_at(self, step: int, steps: int) -> tuple[float, float]:
        fall = math.cos(math.pi / 2 * step / steps) ** self.power
        ratio = (self.start - self.end) * fall + self.end
        return ratio, ratio

    def extremes(self, steps: int) -> tuple[float, float]:
        return _ends(self, steps)


def cosine_signal(share: float, s: float = 0.008) -> float:
    """Signal left at this share of the way (Nichol & Dhariwal 2021, eq. 17, before dividing)."""
    return math.cos((share + s) / (1 + s) * math.pi / 2) ** 2


def _ends(ratio: MaskRatio, steps: int) -> tuple[float, float]:
    """Extremes of a schedule that only rises or only falls."""
    first, last = ratio.bounds_at(0, steps)[0], ratio.bounds_at(steps - 1, steps)[0]
    return min(first, last), max(first, last)
