"""Everything random in image k comes from seed k alone.

Each image has a CPU generator: first the class that is used if none was asked for, then the start
noise, then the noise of every step. So neither batch, device, process count nor resume matter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# torch seeds its CPU engine with 32 bits: greater seeds would repeat smaller ones.
LARGEST_SEED = 2**32 - 1


def drawn_labels(seeds: Sequence[int], num_classes: int) -> list[int]:
    """The class of each seed where none was asked for, evenly drawn."""
    return [_label(torch.Generator().manual_seed(seed), num_classes) for seed in seeds]


class SeededNoise:
    """The random source of one batch: `start` once, then `step` for every step that adds noise.

    The label of `drawn_labels` is skipped even where classes were asked for, so asking for the
    class that a seed has anyway gives the same image.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int], num_classes: int) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = shape
        if num_classes:
            for generator in self._generators:
                _label(generator, num_classes)

    def start(self) -> Tensor:
        """Standard normal [B, C, H, W], float32, on the CPU."""
        return self._normal()

    def step(self) -> Tensor:
        """The next step's standard normal [B, C, H, W]."""
        return self._normal()

    def _normal(self) -> Tensor:
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._generators])


def _label(generator: torch.Generator, num_classes: int) -> int:
    return int(torch.randint(num_classes, (), generator=generator))
