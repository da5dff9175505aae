"""What an extractor is: the network behind every number, and the resizing in front of it.

Axes: B images, H W pixels, D pooled features, S spatial features, C classes. Pixels are 0..255.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdt_cli.core.precision import float32
from mdt_cli.images.decode import Pixels


@dataclass(frozen=True)
class Extractor:
    """A frozen network up to its pooled features, and the class layer on top where it has one."""

    name: str
    resize: str
    input_size: int | None  # None: the network takes any size
    dimensions: int
    weights_sha256: str
    # uint8 [H,W,3] -> float32 [3,h,w]; runs in worker threads.
    prepare: Callable[[Pixels], NDArray[np.float32]]
    # float32 [B,3,h,w] on the device -> float32 [B,D+S]
    features: Callable[[Tensor], Tensor]
    head_CD: Tensor | None = None  # None: the network knows no classes
    bias_C: Tensor | None = None
    # Columns after the pooled ones: a map with its spatial positions, for sFID. 0: none asked for.
    spatial: int = 0

    @property
    def width(self) -> int:
        """Columns of a row of `features`."""
        return self.dimensions + self.spatial


def extract_batch(extractor: Extractor, images_B3HW: Tensor) -> Tensor:
    """float32 [B, D+S] on the CPU. TF32 is off: its 10 bits would show in a score's digits."""
    with torch.inference_mode(), _exact() if images_B3HW.is_cuda else nullcontext():
        return extractor.features(images_B3HW).float().cpu()


@contextmanager
def _exact() -> Iterator[None]:
    with float32(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
