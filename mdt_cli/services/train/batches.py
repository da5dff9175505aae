"""Micro-batches as a pure function of (seed, step, micro-batch): rows, flips, noise, masks."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache.read import LatentCache, LatentRows
from mdt_cli.config.run import RunConfig
from mdt_cli.core.batch import Batch, Condition
from mdt_cli.core.masking.ratio import MaskRatio
from mdt_cli.core.objectives.base import Loss
from mdt_cli.core.objectives.training_step import View, ViewDraw, ViewSource
from mdt_cli.core.rng import stream
from mdt_cli.core.row_order import row_at
from mdt_cli.services.build.latents import LatentUnits, latent_units
from mdt_cli.services.build.masking import build_selector, build_views
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.build.ratio import build_mask_ratio
from mdt_cli.services.runtime import own_cores
from mdt_cli.services.train.split import Split, split_rows, stratified_rows

# More threads make more noise than any GPU trains on, and each holds a micro-batch in memory.
MOST_THREADS = 4


@dataclass(frozen=True)
class MicroBatch:
    """Clean latents [B, C, H, W], times [B], and one draw per view."""

    clean: Tensor
    t_B: Tensor
    draws: tuple[ViewDraw, ...]
    ratio: float

    def pin(self) -> "MicroBatch":
        """A copy in pinned memory, which a GPU reads without making the host wait."""
        draws = tuple(draw.pin() for draw in self.draws)
        return replace(self, clean=self.clean.pin_memory(), t_B=self.t_B.pin_memory(), draws=draws)

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy with `clean` and `t_B` on `device`, sent without waiting where possible.

        The draws stay where they are until their view is computed.
        """
        clean = self.clean.to(device, non_blocking=True)
        return replace(self, clean=clean, t_B=self.t_B.to(device, non_blocking=True))

    def of_view(self, number: int) -> Batch:
        """What view `number` is computed from; its draw may still be in host memory."""
        draw = self.draws[number]
        return Batch(self.clean, self.t_B, draw.noise, draw.condition, draw.subset)


@dataclass(frozen=True)
class TrainData:
    """What a step is computed from; each of its micro-batches follows from its number alone."""

    config: RunConfig
    cache: LatentCache
    split: Split
    loss: Loss
    views: tuple[View, ...]
    mask_ratio: MaskRatio
    source: ViewSource
    units: LatentUnits

    @property
    def conditional(self) -> bool:
        """Whether the network learns classes."""
        return self.config.data.conditional and self.cache.facts.num_classes > 0

    def condition(self, rows: LatentRows) -> Condition:
        """The condition of these images, before any class is dropped."""
        return Condition(rows.label if self.conditional else None)

    def clean_latents(self, rows: LatentRows, generator: torch.Generator | None) -> Tensor:
        """What the network learns of these rows: a draw, or without `generator` the mode."""
        if generator is None or self.config.data.posterior == "mode":
            return self.units.as_fed(rows.mean)
        return self.units.as_fed(posterior_draw(rows, generator))

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
        clean = self.clean_latents(read, generator)
        t_B = self.loss.sample_time(size, generator)
        # A ratio of the step gives all micro-batches the same shapes.
        of = (step, index) if self.mask_ratio.per_micro_batch else (step,)
        steps = self.config.schedule_steps
        ratio_step = min(step, steps - 1)
        ratio = self.mask_ratio.at(ratio_step, steps, stream(seed, *of, "mask ratio"))
        draws = tuple(
            self.source.draw(
                view,
                tuple(clean.shape),
                self.condition(read),
                ratio,
                stream(seed, step, index, "view", number),
            )
            for number, view in enumerate(self.views)
        )
        return MicroBatch(clean, t_B, draws, ratio)

    def stream_of(
        self, first_step: int, last_step: int, indices: range, device: torch.device
    ) -> Iterator[list[MicroBatch]]:
        """The micro-batches `indices` of each step, on `device`; for a GPU, prepared ahead."""
        steps = range(first_step, last_step)
        if device.type == "cpu":
            # Preparing ahead would only take the cores that train.
            yield from ([self.micro_batch(step, index) for index in indices] for step in steps)
            return
        drawn = self.drawn_ahead(steps, indices, min(MOST_THREADS, own_cores()), device)
        for _ in steps:
            yield [next(drawn).to(device) for _ in indices]

    def drawn_ahead(
        self, steps: range, indices: range, num_threads: int, device: torch.device
    ) -> Iterator[MicroBatch]:
        """The micro-batches `indices` of each step, prepared by threads, in order, in host memory.

        At most a step's worth of them, and one per thread, wait or are being prepared.
        """

        def draw(index: tuple[int, int]) -> MicroBatch:
            drawn = self.micro_batch(*index)
            return drawn.pin() if device.type == "cuda" else drawn

        threads = ThreadPoolExecutor(num_threads, "draw")
        coming: deque[Future[MicroBatch]] = deque()
        try:
            for index in itertools.product(steps, indices):
                coming.append(threads.submit(draw, index))
                if len(coming) > max(len(indices), num_threads):
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def train_data(config: RunConfig, cache: LatentCache, grid: tuple[int, int]) -> TrainData:
    """The data of a run whose network has this grid of tokens."""
    return TrainData(
        config,
        cache,
        _split(config, cache),
        build_loss(config.objective),
        tuple(build_views(config)),
        build_mask_ratio(config.masking),
        ViewSource(
            build_selector(config.masking, grid),
            grid,
            cache.facts.num_classes,
            config.data.class_dropout,
        ),
        latent_units(config.data, cache.facts.codec),
    )


def _split(config: RunConfig, cache: LatentCache) -> Split:
    held_out, seed = config.data.held_out, config.training.seed
    if config.data.split == "random":
        return split_rows(cache.facts.count, held_out, seed)
    return stratified_rows(cache.labels, held_out, seed)


def posterior_draw(rows: LatentRows, generator: torch.Generator) -> Tensor:
    """A sample of the codec's posterior; the latents themselves where it is deterministic."""
    if rows.std is None:
        return rows.mean
    return rows.mean + rows.std * torch.randn(rows.mean.shape, generator=generator)
