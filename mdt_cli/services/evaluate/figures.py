"""The figures of a report: a grid of samples, the closest pairs, the worst classes."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from mdt_cli.images.contact_sheet import sheet, square
from mdt_cli.images.decode import Pixels
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extract import Extracted

GRID_SIDE, GRID_CLASSES, PER_CLASS = 8, 10, 10
STRIP = 10
WORST = 4
# Larger images are shown smaller: a report is mailed.
LARGEST_TILE = 128


@dataclass(frozen=True)
class Figure:
    """A PNG as a data address, with the sentence under it."""

    address: str
    caption: str
    width: int


def figures(
    report: Mapping[str, Any],
    samples: SizedSet,
    of_samples: Extracted,
    reference: SizedSet | None,
    of_reference: Extracted | None,
) -> dict[str, list[Figure]]:
    """By section: `samples`, `nearest`, `classes`; what cannot be shown is left out."""
    grid, names, caption = _grid(samples)
    if reference is None or of_reference is None:
        return {"samples": [_figure(_tiles(samples, grid), names, caption)]}
    closest = report.get("nearest", {}).get("closest", [])[:STRIP]
    scores = report.get("classes", {}).get("scores", [])
    worst = [score for score in scores if score["value"] is not None][:WORST]
    near = [[pair[side] for pair in closest] for side in ("sample", "reference")]
    of_class = [
        [_of_class(images, score["name"], report["classes"], side) for score in worst]
        for images, side in ((samples, "samples"), (reference, "reference"))
    ]
    # The images of a set are read in one pass: some containers have no random access.
    ours, *rest = _tiles(samples, [near[0], *of_class[0], *grid])
    theirs, *their_classes = _tiles(reference, [near[1], *of_class[1]])
    shown = {"samples": [_figure(rest[len(worst) :], names, caption)]}
    if closest:
        shown["nearest"] = [
            _figure(
                [ours, theirs],
                ["sample", "nearest"],
                "The samples that lie nearest to a reference image, and that image; the closest "
                "pair is on the left.",
            )
        ]
    for score, *pair in zip(worst, rest[: len(worst)], their_classes, strict=True):
        if all(pair):
            shown.setdefault("classes", []).append(
                _figure(pair, ["samples", "reference"], f"{score['name']}: {score['value']:.4g}")
            )
    return shown


def reconstruction_figure(pairs: Sequence[tuple[Pixels, Pixels]]) -> Figure:
    """Images above what the codec made of them."""
    rows = [[_small(pair[side]) for pair in pairs] for side in (0, 1)]
    return _figure(rows, ["image", "through codec"], "The first images, before and after.")


def _grid(samples: SizedSet) -> tuple[list[list[int]], list[str] | None, str]:
    """Positions, names of their rows and a caption: a row for each class, else a square."""
    rows: dict[str, list[int]] = {}
    for position, name in enumerate(samples.classes or ()):
        rows.setdefault(name, []).append(position)
    if len(rows) > 1:
        chosen = sorted(rows)[:GRID_CLASSES]
        more = f"; {len(chosen)} of {len(rows)} classes" if len(chosen) < len(rows) else ""
        tiles = [rows[name][:PER_CLASS] for name in chosen]
        return tiles, chosen, f"The first samples of each class{more}."
    count = min(samples.count, GRID_SIDE**2)
    positions = [k * samples.count // count for k in range(count)]
    spread = "All samples" if count == samples.count else f"{count} samples, evenly spread"
    return square(positions), None, f"{spread}."


def _of_class(images: SizedSet, name: str, section: Mapping[str, Any], side: str) -> list[int]:
    """The first images of a class, whatever that set calls it."""
    own = section["names"][side].get(name, name)
    found = [k for k, given in enumerate(images.classes or ()) if given == own]
    return found[:STRIP]


def _tiles(images: SizedSet, rows: Sequence[Sequence[int]]) -> list[list[Pixels]]:
    """The images at the positions in each row."""
    found = {position: _small(pixels) for position, pixels in images.pixels_at(list(chain(*rows)))}
    return [[found[position] for position in row] for row in rows]


def _small(pixels: Pixels) -> Pixels:
    side = max(pixels.shape[:2])
    if side <= LARGEST_TILE:
        return pixels
    height, width = (max(1, round(n * LARGEST_TILE / side)) for n in pixels.shape[:2])
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _figure(rows: Sequence[Sequence[Pixels]], names: Sequence[str] | None, caption: str) -> Figure:
    image = sheet(rows, names)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Figure(address, caption, image.width)
