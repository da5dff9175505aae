"""Strips of three images: the original, what the network saw of it, and what it restored.

Axes: B batch, C channels, H W latent size, S image side.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdt_cli.config.masking import MaskingConfig
from mdt_cli.core.codecs.codec import Codec, decoded
from mdt_cli.core.masking.tokens import Selector, TokenSubset
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.base import Loss
from mdt_cli.core.objectives.reconstruction import hidden_places, restored
from mdt_cli.core.rng import stream
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.images.contact_sheet import Pixels, save_grid
from mdt_cli.services.build.latents import LatentUnits

PANELS = 3
GREY = 0.0  # of -1..1
PAPER = 255


def cannot_restore(loss: Loss, masking: MaskingConfig) -> str | None:
    """Why a network of this loss and masking cannot restore hidden patches; None where it can."""
    fill = masking.fill
    if not loss.restores:
        return f"it was trained with objective {loss.kind}, not to restore hidden patches"
    if not masking.is_masked:
        return "it was trained without masking"
    if fill in ("nothing", "clean_patches"):
        return f'masking.fill "{fill}" gives it no output for hidden patches'
    return None


def targets_are_normalised(masking: MaskingConfig) -> bool:
    """Whether the network predicts patches of mean 0 and variance 1."""
    terms = [term for view in masking.views if view.tokens == "kept" for term in view.terms]
    return any(term.normalise == "patch" for term in terms if term.region != "kept")


def hide(
    selector: Selector, grid: tuple[int, int], ratio: float, seeds: Sequence[int]
) -> TokenSubset:
    """Kept tokens, row k drawn from seed k alone. MdtError for a ratio that keeps none."""
    if selector.num_kept(grid, ratio) < 1:
        raise MdtError(
            f"--mask-ratio {ratio:g} keeps none of {grid[0] * grid[1]} patches", "lower it"
        )
    drawn = [selector.draw(1, grid, ratio, stream(seed, "hidden patches")) for seed in seeds]
    return TokenSubset(torch.cat([one.kept_BK for one in drawn]), grid[0] * grid[1])


@torch.no_grad()
def make_strips(
    network: Transformer,
    codec: Codec,
    clean_BCHW: Tensor,
    images_B3SS: Tensor | None,
    subset: TokenSubset,
    normalised: bool,
    num_classes: int,
    units: LatentUnits,
) -> list[Pixels]:
    """original | hidden patches grey | restored, uint8 [S, 3 S + 2 gaps, 3] each.

    `images_B3SS` in [-1, 1] are the originals; None: the decoded latents. A network with classes
    gets the null class. `units` are those in which it is fed latents.
    """
    times_B = torch.zeros(len(clean_BCHW), device=clean_BCHW.device)
    null_B = torch.full_like(times_B, num_classes, dtype=torch.int64) if num_classes else None
    fed_BCHW = units.as_fed(clean_BCHW)
    answer = network(fed_BCHW, times_B, null_B, subset).final
    whole = units.as_cached(restored(answer, fed_BCHW, subset, network.patch_size, normalised))
    after = decoded(codec, whole)
    before = decoded(codec, clean_BCHW) if images_B3SS is None else images_B3SS.to(after)
    hidden = hidden_places(subset, network.grid, *before.shape[2:])
    seen = torch.where(hidden, torch.full_like(before, GREY), before)
    columns = [to_uint8(images, "round").numpy() for images in (before, seen, after)]
    return [_beside(panels) for panels in zip(*columns, strict=True)]


def strip_gap(side: int) -> int:
    """White pixels between the panels of a strip of images with this side."""
    return max(1, side // 64)


def strip_size(side: int) -> tuple[int, int]:
    """Width and height in pixels of a strip of images with this side."""
    return PANELS * side + (PANELS - 1) * strip_gap(side), side


def _beside(panels: Sequence[Pixels]) -> Pixels:
    height = panels[0].shape[0]
    line = np.full((height, strip_gap(height), 3), PAPER, np.uint8)
    parts = [part for panel in panels for part in (panel, line)]
    return np.concatenate(parts[:-1], axis=1)


def save_strips(path: Path, strips: Sequence[Pixels]) -> None:
    """All strips on one sheet, about as wide as it is high."""
    per_row = max(1, math.ceil(math.sqrt(len(strips) / PANELS)))
    rows = [strips[start : start + per_row] for start in range(0, len(strips), per_row)]
    save_grid(path, rows, None, gap=16)
