"""Everything random in image k comes from seed k alone.

Each image has a CPU generator: the start noise first, then the class that is used if none was
asked for, then the noise of every step. So neither batch, device, process count nor resume matter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """The random source of one batch; call in the order start, labels, step, step, ..."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = shape

    def start(self) -> Tensor:
        """Standard normal [B, C, H, W], float32, on the CPU."""
        return self._normal()

    def labels(self, num_classes: int) -> list[int]:
        """A class per image, evenly drawn. Drawn even where classes were asked for.

        So asking for the class that a seed has anyway gives the same picture.
        """
        return [int(torch.randint(num_classes, (), generator=g)) for g in self._generators]

    def step(self) -> Tensor:
        """The next step's standard normal [B, C, H, W]."""
        return self._normal()

    def _normal(self) -> Tensor:
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._generators])
