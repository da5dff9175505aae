"""The norm of a gradient, for clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Values whose squares float32 sums, in a row, without losing more than its last bits.
PART = 1 << 14


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm over all gradients, on a CPU, to about 1e-7; 0 where there are none.

    A CPU sums the squares of a whole tensor in float32, which is 3e-3 too low for the matrix of
    42 million values that modulates all blocks of an XL network; the norm of the norms of its parts
    is not. A GPU sums in a tree.
    """
    parts = [part for gradient in gradients for part in gradient.flatten().split(PART)]
    if not parts:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))
