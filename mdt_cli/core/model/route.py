"""The route of a masked pass: where dropped tokens leave the blocks, and where they return.

Axes: B batch, N all tokens, K kept tokens, E extra tokens in front, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.positions import AttentionPositions


@dataclass(frozen=True)
class Route:
    """Blocks `leave_at` up to, but not including, `return_at` see the kept tokens alone.

    `return_at` = the depth of the trunk: tokens return behind its last block.
    """

    leave_at: int
    return_at: int


class Passage:
    """One forward pass on a route: which tokens are present, and what all of them were before.

    `subset` None: all tokens stay. Extra tokens never leave. `fuse`, where there is one, joins
    what comes back with what left, in every pass.
    """

    def __init__(
        self,
        route: Route | None,
        subset: TokenSubset | None,
        positions: AttentionPositions,
        fill: nn.Module | None,
        fuse: nn.Module | None,
    ) -> None:
        self.subset, self._positions, self._fill, self._fuse = subset, positions, fill, fuse
        self._route = route if subset is not None or fuse is not None else None
        self._present: TokenSubset | None = None
        self._left_BND: Tensor | None = None
        self._known: Tensor | None = None
        self._known_for: tuple[bool, int] | None = None

    @property
    def present(self) -> TokenSubset | None:
        """The tokens that are here now; None for all of them."""
        return self._present

    def leaves_at(self, block: int) -> bool:
        """Whether dropped tokens leave before this block."""
        return self._route is not None and block == self._route.leave_at

    def returns_at(self, block: int) -> bool:
        """Whether tokens return before this block; never without a fill or a fusion."""
        returns = self._fill is not None or self._fuse is not None
        return self._route is not None and returns and block == self._route.return_at

    def leave(self, x: Tensor, num_extras: int) -> Tensor:
        """[B, E+N, D] to [B, E+K, D]."""
        patches = x[:, num_extras:] if num_extras else x
        self._left_BND, self._present = patches, self.subset
        if self.subset is None:
            return x
        kept = self.subset.gather(patches)
        return torch.cat([x[:, :num_extras], kept], dim=1) if num_extras else kept

    def come_back(self, x: Tensor, num_extras: int, second_BCHW: Tensor | None) -> Tensor:
        """[B, E+K, D] to [B, E+N, D]; `second_BCHW` is the image that some fills show."""
        left_BND, self._present = self._left_BND, None
        patches = x[:, num_extras:] if num_extras else x
        if self.subset is not None and self._fill is not None:
            patches = self._fill(patches, left_BND, self.subset, second_BCHW)
        if self._fuse is not None:
            patches = self._fuse(patches, left_BND)
        return torch.cat([x[:, :num_extras], patches], dim=1) if num_extras else patches

    def attention(self, num_extras: int) -> Tensor | None:
        """What the attention gets of positions, for the tokens present; computed once."""
        wanted = (self._present is not None, num_extras)
        if self._known_for != wanted:
            self._known = self._positions.for_pass(self._present, num_extras)
            self._known_for = wanted
        return self._known
