"""The tensors of a checkpoint by name, and what their shapes determine of the network."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mdt_cli.core.model.positions import sincos_table
from mdt_cli.core.objectives.betas import beta_table
from mdt_cli.errors import MdtError

# The number of heads does not show in any shape. Published: width -> heads (S, U-ViT S, B, L, XL
# and H).
HEADS = {384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16}
# The same for the narrow decoder of MaskDiT.
NARROW_HEADS = {512: 16}
# A fixed table made by another library may differ in the last bit.
SAME_POSITIONS = 1e-6
# float32 and float64 tables of betas are as near as this.
SAME_BETAS = 1e-6

Value = str | int | float | bool


@dataclass(frozen=True)
class Seen:
    """What a checkpoint determines (`keys`) and what it does not store (`assumed`).

    num_classes: 0 for a network without classes.
    """

    keys: Mapping[str, Value]
    assumed: Mapping[str, "Assumed"]
    latent_shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Assumed:
    """A value that the checkpoint does not store, and why it is assumed; `--set` overrides it."""

    value: Value
    why: str


@dataclass(frozen=True)
class Asked:
    """What the user may have to supply because the checkpoint does not store it.

    null_row: whether the last row of the label table is the null class.
    """

    decoder_depth: int | None = None
    num_heads: int | None = None
    narrow_heads: int | None = None
    null_row: bool = True


def is_table(theirs: Tensor, table: Tensor) -> bool:
    """Whether `theirs` equals the float32 `table` in the precision it is stored in."""
    low, high = ((table + d).to(theirs.dtype) for d in (-SAME_POSITIONS, SAME_POSITIONS))
    return bool(((low <= theirs) & (theirs <= high)).all())


class Shapes:
    """Tensors by name; MdtError where a required one is missing or has another shape."""

    def __init__(
        self, tensors: Mapping[str, Tensor], what: str, beside: Mapping[str, object] | None = None
    ) -> None:
        self.tensors, self.what, self.beside = tensors, what, beside or {}

    def of(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a required tensor; MdtError without it or with other dimensions."""
        if name not in self.tensors:
            raise MdtError(f"{self.what} has no {name}, from which the size of the network is read")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise MdtError(
                f"{self.what}: {name} has shape {list(shape)}; expected {dimensions} dimensions"
            )
        return shape

    def count(self, start: str) -> int:
        """The number of blocks named `start`.0, `start`.1, ..."""
        found = (re.match(rf"{re.escape(start)}\.(\d+)\.", name) for name in self.tensors)
        return len({match[1] for match in found if match})

    def grid(self, num_tokens: int) -> int:
        """The side of a square grid of tokens; MdtError for a number that is not a square."""
        side = math.isqrt(max(num_tokens, 0))
        if side == 0 or side * side != num_tokens:
            raise MdtError(f"{self.what} has {num_tokens} position embeddings, not a square grid")
        return side

    def multiple(self, outputs: int, inputs: int) -> int:
        """1 where the output has the channels of the input, 2 with a learned variance."""
        if outputs not in (inputs, 2 * inputs):
            raise MdtError(
                f"{self.what}: the output layer has {outputs} values per patch; expected {inputs}, "
                f"or {2 * inputs} with learned variance"
            )
        return outputs // inputs

    def heads(self, width: int, asked: int | None, key: str, known: Mapping[int, int]) -> Assumed:
        """`asked`, or the number published for this width; MdtError where there is neither."""
        heads = asked or known.get(width)
        if heads is None:
            raise MdtError(
                f"{self.what} does not store the number of attention heads, and none is published "
                f"for width {width}",
                f"add --set {key}=N",
            )
        return Assumed(heads, f"published for width {width}")

    def betas(self) -> tuple[str, int] | None:
        """Schedule and length of the betas stored with the network; None where there are none."""
        theirs = self.beside.get("betas")
        if not isinstance(theirs, Tensor) or theirs.dim() != 1:
            return None
        for kind in ("linear", "cosine", "scaled_linear"):
            if float((beta_table(kind, len(theirs)) - theirs.double()).abs().max()) < SAME_BETAS:
                return kind, len(theirs)
        raise MdtError(
            f"{self.what} has a noise schedule (betas) that is not linear, cosine or scaled_linear"
        )

    def has_fixed_positions(self, name: str) -> bool:
        """Whether the stored positions are the fixed sin-cos table, not trained ones."""
        _, num_tokens, width = self.of(name, 3)
        side = self.grid(num_tokens)
        if width % 4:
            return False
        return is_table(self.tensors[name][0], sincos_table(side, side, width))
