"""Where a tensor of another program's weights lies in ours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """Rows `start:stop` of tensor `name` of our network; the whole tensor where both are None."""

    name: str
    start: int | None = None
    stop: int | None = None

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class TensorMap:
    """Slots that, one below the other, are their tensor.

    batched: theirs has one more axis, of length 1, in front. transposed: theirs is the transpose.
    pixelwise: theirs is a convolution of 1 x 1, with two axes of length 1 behind.
    """

    slots: tuple[Slot, ...]
    batched: bool = False
    transposed: bool = False
    pixelwise: bool = False

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        """Their tensor, from what lies in our slots."""
        whole = ours[0] if len(ours) == 1 else torch.cat(list(ours))
        if self.transposed:
            whole = whole.t()
        if self.pixelwise:
            whole = whole[:, :, None, None]
        return whole.unsqueeze(0) if self.batched else whole

    def to_ours(self, theirs: Tensor, ours: Sequence[Tensor]) -> list[Tensor]:
        """What belongs into our slots; RuntimeError where the shapes do not fit."""
        whole = theirs.squeeze(0) if self.batched else theirs
        if self.transposed:
            whole = whole.t()
        if self.pixelwise:
            whole = whole.flatten(1)
        return list(whole.split([len(slot) for slot in ours]))


def linear(theirs: str, ours: str, bias: bool = True) -> Iterator[tuple[str, TensorMap]]:
    """Weight and bias of a Linear or Conv2d, mapped name by name."""
    for kind in ("weight", "bias") if bias else ("weight",):
        yield f"{theirs}.{kind}", TensorMap((Slot(f"{ours}.{kind}"),))
