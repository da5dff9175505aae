"""Which tokens a pass keeps, and how they return to their positions.

Axes: B batch, N all tokens (row-major over the grid), K kept tokens, D channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSubset:
    """The tokens that a pass keeps, for each sample; drawn outside the network.

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
        """On `device`, without making the host wait where memory is pinned."""
        return TokenSubset(self.kept_BK.to(device, non_blocking=True), self.num_tokens)

    def _index(self, x: Tensor) -> Tensor:
        return self.kept_BK.unsqueeze(-1).expand(-1, -1, x.shape[-1])


@dataclass(frozen=True)
class RandomTokens:
    """Uniformly random tokens, as MAE draws them (He et al. 2022) and most recipes after it.

    The count is rounded up to a multiple of `bucket`, and never above N: a ratio that changes from
    step to step then asks for few different lengths.
    """

    bucket: int = 1
    # Which of the two counts is rounded down.
    floor: Literal["kept", "dropped"] = "kept"

    def num_kept(self, grid: tuple[int, int], ratio: float) -> int:
        """floor(N (1 - ratio)), or N - floor(N ratio), before the bucket; 0 stays 0."""
        num_tokens = grid[0] * grid[1]
        drops = self.floor == "dropped"
        keep = num_tokens - int(num_tokens * ratio) if drops else int(num_tokens * (1 - ratio))
        return min(num_tokens, -(-keep // self.bucket) * self.bucket)

    def draw(
        self, batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator
    ) -> TokenSubset:
        """A subset per sample, in grid order. ValueError if none would be kept.

        Official code keeps the shuffled order; attention does not see order, positions travel
        with the tokens, and sorted indices read memory forwards.
        """
        keep, num_tokens = _some(self.num_kept(grid, ratio), grid, ratio), grid[0] * grid[1]
        noise_BN = torch.rand(batch, num_tokens, generator=generator)
        kept_BK = noise_BN.argsort(dim=1)[:, :keep].sort(dim=1).values
        return TokenSubset(kept_BK, num_tokens)


@dataclass(frozen=True)
class RandomBlocks:
    """Random blocks of size x size tokens are dropped; floor(ratio N) // size^2 of them (MaskDM).

    Size 1 is MaskDM's rule for single tokens: it rounds the dropped ones down, not the kept ones.
    ValueError where the size does not divide both sides of the grid.
    """

    size: int

    def num_kept(self, grid: tuple[int, int], ratio: float) -> int:
        """Tokens outside the dropped blocks, the same number for every sample."""
        num_tokens = grid[0] * grid[1]
        return num_tokens - self._num_dropped_blocks(grid, ratio) * self.size**2

    def draw(
        self, batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator
    ) -> TokenSubset:
        """A subset per sample, in grid order. ValueError if none would be kept."""
        keep = _some(self.num_kept(grid, ratio), grid, ratio)
        rows, columns = grid[0] // self.size, grid[1] // self.size
        # A random rank for each block, spread over its tokens: the lowest ranks are dropped.
        rank = torch.rand(batch, rows * columns, generator=generator).argsort(1)
        kept = rank.view(batch, rows, columns) >= self._num_dropped_blocks(grid, ratio)
        kept = kept.repeat_interleave(self.size, 1).repeat_interleave(self.size, 2)
        return TokenSubset(kept.flatten(1).nonzero()[:, 1].view(batch, keep), grid[0] * grid[1])

    def _num_dropped_blocks(self, grid: tuple[int, int], ratio: float) -> int:
        if grid[0] % self.size or grid[1] % self.size:
            raise ValueError(f"blocks of {self.size} do not tile a grid of {grid[0]}x{grid[1]}")
        return int(ratio * grid[0] * grid[1]) // self.size**2


@dataclass(frozen=True)
class CropWindow:
    """One random window of size x size tokens is kept, whatever the ratio (MaskDM).

    ValueError where the window is larger than the grid.
    """

    size: int

    def num_kept(self, grid: tuple[int, int], ratio: float) -> int:
        """size * size; the ratio is not read."""
        if self.size > min(grid):
            raise ValueError(f"a window of {self.size} exceeds a grid of {grid[0]}x{grid[1]}")
        return self.size**2

    def draw(
        self, batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator
    ) -> TokenSubset:
        """A window per sample, every position equally likely, in grid order."""
        keep, span = self.num_kept(grid, ratio), torch.arange(self.size)
        top_B = torch.randint(grid[0] - self.size + 1, (batch, 1), generator=generator)
        left_B = torch.randint(grid[1] - self.size + 1, (batch, 1), generator=generator)
        rows, columns = (top_B + span).unsqueeze(2), (left_B + span).unsqueeze(1)
        return TokenSubset((rows * grid[1] + columns).view(batch, keep), grid[0] * grid[1])


Selector = RandomTokens | RandomBlocks | CropWindow


def _some(keep: int, grid: tuple[int, int], ratio: float) -> int:
    if keep < 1:
        raise ValueError(f"ratio {ratio} keeps none of {grid[0] * grid[1]} tokens")
    return keep
