"""Contact sheets: rows of images with the name of their class beside them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mdt_cli.files import atomic_path

Pixels = NDArray[np.uint8]  # [H, W, 3]
Tile = TypeVar("Tile")

GAP, MARGIN = 2, 6
# Small images are enlarged by whole factors until a tile has about this many pixels.
SMALLEST_TILE = 48
LONGEST_NAME = 28
PAPER, INK = (255, 255, 255), (0, 0, 0)


def save_grid(
    path: Path, rows: Sequence[Sequence[Pixels]], names: Sequence[str] | None, gap: int = GAP
) -> None:
    """Write the sheet as a PNG; a row may be shorter than others."""
    with atomic_path(path) as temporary:
        sheet(rows, names, gap).save(temporary, format="PNG")


def square(tiles: list[Tile]) -> list[list[Tile]]:
    """Tiles in about as many rows as columns."""
    columns = max(1, math.ceil(math.sqrt(len(tiles))))
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def sheet(
    rows: Sequence[Sequence[Pixels]], names: Sequence[str] | None, gap: int = GAP
) -> Image.Image:
    """The image itself: names right-aligned left of their rows, `gap` pixels between tiles."""
    height, width = rows[0][0].shape[:2]
    factor = max(1, round(SMALLEST_TILE / height))
    height, width = height * factor, width * factor
    font = ImageFont.load_default(min(20, max(10, height // 3)))
    shown = [_short(name) for name in names] if names is not None else [""] * len(rows)
    left = max((math.ceil(font.getlength(name)) for name in shown), default=0)
    left = left + 2 * MARGIN if left else MARGIN
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "RGB",
        (
            left + columns * (width + gap) - gap + MARGIN,
            2 * MARGIN + len(rows) * (height + gap) - gap,
        ),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    for index, (row, name) in enumerate(zip(rows, shown, strict=True)):
        top = MARGIN + index * (height + gap)
        if name:
            pen.text((left - MARGIN, top + height // 2), name, INK, font, anchor="rm")
        for column, tile in enumerate(row):
            image = Image.fromarray(tile).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(image, (left + column * (width + gap), top))
    return sheet


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
