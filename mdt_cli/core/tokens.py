"""Which tokens a pass keeps, and how they return to their places.

Axes: B batch, N all tokens (row-major over the grid), K kept tokens, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSubset:
    """The tokens that a pass keeps; drawn outside the network, for each sample.

    kept_BK: int64 positions in 0..N-1, each at most once a row.
    """

    kept_BK: Tensor
    num_tokens: int

    @property
    def dropped_BN(self) -> Tensor:
        """True where a token is not kept."""
        everything = torch.ones(
            self.kept_BK.shape[0], self.num_tokens, dtype=torch.bool, device=self.kept_BK.device
        )
        return everything.scatter(1, self.kept_BK, False)

    def gather(self, x_BND: Tensor) -> Tensor:
        """The kept rows of `x_BND`, as x_BKD."""
        return x_BND.gather(1, self._index(x_BND))

    def scatter(self, x_BKD: Tensor, elsewhere_BND: Tensor) -> Tensor:
        """`elsewhere_BND` with the kept rows replaced by `x_BKD`; neither input is changed."""
        return elsewhere_BND.scatter(1, self._index(x_BKD), x_BKD)

    def to(self, device: torch.device) -> "TokenSubset":
        return TokenSubset(self.kept_BK.to(device, non_blocking=True), self.num_tokens)

    def _index(self, x: Tensor) -> Tensor:
        return self.kept_BK.unsqueeze(-1).expand(-1, -1, x.shape[-1])


def num_kept(num_tokens: int, ratio: float) -> int:
    """floor(N (1 - ratio)), the count of MAE (He et al. 2022) and of every recipe built on it."""
    return int(num_tokens * (1 - ratio))


def random_tokens(
    batch: int, num_tokens: int, ratio: float, generator: torch.Generator
) -> TokenSubset:
    """Keep a uniformly random subset per sample, in grid order. ValueError if none would be kept.

    Official code keeps the shuffled order; attention does not see order, positions travel with
    the tokens, and sorted indices read memory forwards.
    """
    keep = num_kept(num_tokens, ratio)
    if keep < 1:
        raise ValueError(f"ratio {ratio} keeps none of {num_tokens} tokens")
    noise_BN = torch.rand(batch, num_tokens, generator=generator)
    kept_BK = noise_BN.argsort(dim=1)[:, :keep].sort(dim=1).values
    return TokenSubset(kept_BK, num_tokens)
