"""Which rows of a cache are held out of training: a function of the labels and the seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.core.rng import stream

# Never hold more than this share of a cache out of training.
LARGEST_HELD_OUT = 1 / 20


@dataclass(frozen=True)
class Split:
    """Rows of a cache for training and for the held-out loss."""

    train: Tensor
    held_out: Tensor


def split_rows(count: int, held_out: int, seed: int) -> Split:
    """At most a twentieth of the rows is held out, so nothing of a tiny cache is."""
    wanted = min(held_out, int(count * LARGEST_HELD_OUT))
    order = torch.randperm(count, generator=stream(seed, "held-out"))
    return Split(order[wanted:].sort().values, order[:wanted].sort().values)


def stratified_rows(labels: Tensor, held_out: int, seed: int) -> Split:
    """As `split_rows`, with as large a share of each class, and never the last image of one.

    In a random order, image r of the n of a class comes at (r + u) / n, where u is random for each
    class; the first images of that order are held out.
    """
    count = len(labels)
    generator = stream(seed, "held-out")
    order = torch.randperm(count, generator=generator)
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    offsets = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    # The rows of a class one after the other, in the random order: ranks count from its first.
    by_class = order[classes[order].argsort(stable=True)]
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty(count, dtype=torch.int64)
    ranks[by_class] = torch.arange(count) - starts[classes[by_class]]
    place = (ranks + offsets[classes]) / sizes[classes]
    place[ranks == sizes[classes] - 1] = torch.inf
    wanted = min(held_out, int(count * LARGEST_HELD_OUT), count - len(sizes))
    held = place.argsort(stable=True)[:wanted]
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[held] = True
    return Split((~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0])


def cut_note(wanted: int, split: Split, stratified: bool) -> str | None:
    """What is held out where that is less than was wanted."""
    held, count = len(split.held_out), len(split.train) + len(split.held_out)
    if held >= wanted:
        return None
    rule = ", and never the last image of a class" if stratified else ""
    return (
        f"{held} images are held out, not data.held_out {wanted}: at most a twentieth of the "
        f"{count}{rule}"
    )
