"""Preview grids of a run."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mdt_cli.core.sampling.to_uint8 import Rule, to_uint8
from mdt_cli.images.contact_sheet import save_grid


def labelled_grid(
    path: Path, images_B3HW: Tensor, names: Sequence[str] | None, per_row: int, rule: Rule
) -> None:
    """Write images in [-1, 1] as a PNG, `per_row` in each row, row k named `names[k]`."""
    tiles = list(to_uint8(images_B3HW, rule).numpy())
    rows = [tiles[start : start + per_row] for start in range(0, len(tiles), per_row)]
    save_grid(path, rows, names)
