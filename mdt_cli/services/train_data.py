"""Micro-batches as a pure function of (seed, step, micro-batch): rows, flips, noise, masks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.config.run import RunConfig
from mdt_cli.core.data.latents import LatentCache, Rows
from mdt_cli.core.data.order import row_at
from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.step import View, ViewDraw, draw_view
from mdt_cli.core.rng import stream
from mdt_cli.core.schedules import MaskRatio
from mdt_cli.core.tokens import Selector

# Never hold more than this share of a cache out of training.
LARGEST_HELD_OUT = 1 / 20


@dataclass(frozen=True)
class MicroBatch:
    """Clean latents [B, C, H, W], times [B] on the CPU, and one draw per view."""

    clean: Tensor
    t_B: Tensor
    draws: tuple[ViewDraw, ...]
    ratio: float


@dataclass(frozen=True)
class Split:
    """Rows of a cache for training and for the held-out loss; a function of count and seed."""

    train: Tensor
    held_out: Tensor


def split_rows(count: int, held_out: int, seed: int) -> Split:
    """A tiny cache holds nothing out: every image is needed."""
    wanted = min(held_out, int(count * LARGEST_HELD_OUT))
    order = torch.randperm(count, generator=stream(seed, "held-out"))
    return Split(order[wanted:].sort().values, order[:wanted].sort().values)


@dataclass(frozen=True)
class TrainData:
    """Everything that a step draws, from nothing but its numbers."""

    config: RunConfig
    cache: LatentCache
    split: Split
    objective: Objective
    views: tuple[View, ...]
    mask_ratio: MaskRatio
    selector: Selector
    grid: tuple[int, int]

    @property
    def null_class(self) -> int:
        return self.cache.facts.num_classes

    @property
    def conditional(self) -> bool:
        return self.config.data.conditional and self.cache.facts.num_classes > 0

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """Micro-batch `index` of optimizer step `step` (both from 0)."""
        training, seed = self.config.training, self.config.training.seed
        size = training.batch_size // training.num_micro_batches
        positions = step * training.batch_size + index * size + torch.arange(size)
        rows = self.split.train[row_at(seed, len(self.split.train), positions)]
        generator = stream(seed, step, index, "images")
        flip = torch.rand(size, generator=generator) < 0.5
        use_flip = self.config.data.flip and self.cache.facts.flip
        read = self.cache.read(rows, flip if use_flip else None)
        clean = posterior_draw(read, generator)
        t_B = self.objective.sample_time(size, generator)
        # The ratio belongs to the step: every process then has the same shapes.
        ratio = self.mask_ratio.at(step, training.steps, stream(seed, step, "mask ratio"))
        draws = tuple(
            draw_view(
                view,
                tuple(clean.shape),
                read.label if self.conditional else None,
                self.null_class,
                self.config.data.class_dropout,
                self.selector,
                self.grid,
                ratio,
                stream(seed, step, index, "view", number),
            )
            for number, view in enumerate(self.views)
        )
        return MicroBatch(clean, t_B, draws, ratio)

    def stream_of(
        self, first_step: int, last_step: int, indices: range, device: torch.device
    ) -> Iterator[list[MicroBatch]]:
        """The micro-batches `indices` of each step; on a GPU the next step is drawn ahead."""

        def draw(step: int) -> list[MicroBatch]:
            return [self.micro_batch(step, index) for index in indices]

        if device.type == "cpu":
            yield from map(draw, range(first_step, last_step))
            return
        with ThreadPoolExecutor(1, "draw") as ahead:
            coming = ahead.submit(draw, first_step)
            for step in range(first_step, last_step):
                ready = coming.result()
                if step + 1 < last_step:
                    coming = ahead.submit(draw, step + 1)
                yield ready


def posterior_draw(rows: Rows, generator: torch.Generator) -> Tensor:
    """A sample of the codec's posterior; the latents themselves where it is deterministic."""
    if rows.std is None:
        return rows.mean
    return rows.mean + rows.std * torch.randn(rows.mean.shape, generator=generator)
