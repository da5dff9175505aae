"""What a run looks at while it trains: held-out loss and previews, from averaged weights."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.training_log import TOP
from mdt_cli.artifacts.weights import ONLINE
from mdt_cli.config.sampling import NoGuidanceConfig
from mdt_cli.core.batch import Batch
from mdt_cli.core.codecs.codec import Codec, codec_from_facts, decoded
from mdt_cli.core.objectives.classification import hits
from mdt_cli.core.objectives.training_step import View, view_loss
from mdt_cli.core.optim.ema import Swapped
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.build.sampler import generate
from mdt_cli.services.events import Classified, Event, PreviewSaved, Validated, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.strips import (
    cannot_restore,
    hide,
    make_strips,
    save_strips,
    targets_are_normalised,
)
from mdt_cli.services.train.batches import posterior_draw
from mdt_cli.services.train.previews import labelled_grid
from mdt_cli.services.train.trainer import Trainer

if TYPE_CHECKING:
    from mdt_cli.services.train.online_metrics import Scorer

NO_ROOM = "they do not fit the memory beside the training"


class Monitor:
    """Has random streams of its own: the run's bits do not change.

    The first process looks by itself; scores are shared work.
    """

    def __init__(self, trainer: Trainer, scorer: "Scorer | None" = None) -> None:
        self._trainer, self._scorer = trainer, scorer
        self._can_preview = True
        self.held_out: Mapping[str, float] = {}

    def after_step(self, done: bool, stop: Stop) -> Iterator[Event]:
        trainer, step = self._trainer, self._trainer.step
        if trainer.accelerator.is_main_process:
            yield from self._look(done)
        if self._scorer is None:
            return
        if step % trainer.config.evaluation.every == 0 or done:
            yield from self._scorer.score(trainer, stop)

    def missed(self, done: bool) -> bool:
        """Whether a kill came between the checkpoint of this step and its numbers.

        All processes call it together; the first one reads, and drops what is half there.
        """
        trainer, config, step = self._trainer, self._trainer.config, self._trainer.step
        missing = False
        if trainer.accelerator.is_main_process:
            file = trainer.folder / run_folder.METRICS
            lines = file.read_text("utf-8").splitlines() if file.is_file() else []
            known = {k for line in lines if (r := json.loads(line))["step"] == step for k in r}
            has = {key.partition("/")[0] for key in known}
            held_out = config.validation.every if len(trainer.data.split.held_out) else 0
            scores = config.evaluation.every if self._scorer is not None else 0
            due = {"held_out": held_out, "evaluation": scores}
            missing = any(e and (done or step % e == 0) and k not in has for k, e in due.items())
            if missing:
                run_folder.rewind(file, step - 1)
        told = torch.tensor(float(missing), device=trainer.device)
        return float(trainer.accelerator.reduce(told, "sum")) > 0

    def _look(self, done: bool) -> Iterator[Event]:
        trainer, config, step = self._trainer, self._trainer.config, self._trainer.step
        every = config.validation.every
        if every and len(trainer.data.split.held_out) and (step % every == 0 or done):
            yield from self._validate()
        every = config.preview.every
        if trainer.loss.classifies:
            return
        if every and self._can_preview and (step % every == 0 or done):
            yield from self._preview()

    def before_first_step(self) -> Iterator[Event]:
        """What a classifier knows before it learns: its gain is counted from there."""
        trainer = self._trainer
        if not trainer.accelerator.is_main_process or not trainer.config.validation.every:
            return
        if trainer.loss.classifies:
            if len(trainer.data.split.held_out):
                yield from self._validate()
            else:
                yield Warned("no image is held out: the accuracy of this classifier stays unknown")

    def _validate(self) -> Iterator[Event]:
        trainer = self._trainer
        self.held_out = self._held_out_losses()
        record = {f"held_out/{k}": v for k, v in self.held_out.items()}
        percent: Mapping[str, float] = {}
        if trainer.loss.classifies:
            percent = held_out_accuracy(trainer)
        run_folder.append(
            trainer.folder / run_folder.METRICS, {"step": trainer.step, **record, **percent}
        )
        yield Validated(trainer.step, self.held_out)
        if percent:
            yield Classified(trainer.step, percent)

    def _held_out_losses(self) -> dict[str, float]:
        """Mean loss per branch and weights, at times and noise that never change."""
        trainer = self._trainer
        losses: dict[str, float] = {}
        # Without noise, what is seen whole is its own answer: there is nothing to measure.
        config = trainer.config
        hides = trainer.loss.restores and config.masking.is_masked
        views = {} if hides else {"full": View("all")}
        for view in trainer.views:
            if view.tokens == "kept":
                own = tuple(term for term in view.terms if not term.target.startswith("teacher"))
                views["masked"] = replace(view, terms=own)
        weights = {"online": None, **{f"{d:g}": ema.tensors for d, ema in trainer.emas.items()}}
        trainer.network.eval()
        for name, tensors in weights.items():
            for branch, view in views.items():
                if tensors is None:
                    losses[f"{branch}/{name}"] = self._held_out_loss(view)
                else:
                    with Swapped(trainer.network, tensors):
                        losses[f"{branch}/{name}"] = self._held_out_loss(view)
        trainer.network.train()
        return losses

    @torch.no_grad()
    def _held_out_loss(self, view: View) -> float:
        trainer = self._trainer
        rows = trainer.data.split.held_out
        size = trainer.config.validation.batch_size
        seed = trainer.config.training.seed
        # One ratio for the whole run, so that its losses can be compared with each other.
        ratio = trainer.data.mask_ratio.mean(trainer.config.training.steps)
        source = replace(trainer.data.source, class_dropout=0.0)
        total = 0.0
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            generator = stream(seed, "held-out loss", start)
            read = trainer.cache.read(part)
            clean = posterior_draw(read, generator)
            # Times spread evenly over their distribution, in an order unrelated to the rows.
            share = (torch.randperm(len(part), generator=generator) + 0.5) / len(part)
            condition = trainer.data.condition(read)
            drawn = source.draw(view, tuple(clean.shape), condition, ratio, generator)
            batch = Batch(
                clean,
                trainer.loss.quantile_time(share),
                drawn.noise,
                drawn.condition,
                drawn.subset,
            ).to(trainer.device)
            loss_B = view_loss(
                trainer.network, trainer.loss, view, batch, trainer.network.patch_size
            )
            total += float(loss_B.sum())
        return total / len(rows)

    def _preview(self) -> Iterator[Event]:
        trainer = self._trainer
        restoring = trainer.loss.restores
        why = cannot_restore(trainer.loss, trainer.config.masking) if restoring else None
        try:
            codec = codec_from_facts(dict(trainer.cache.facts.codec), trainer.device, None)
        except MdtError as error:
            why = error.message
        except torch.OutOfMemoryError:
            why = NO_ROOM
        if why is not None:
            self._can_preview = False
            yield Warned(f"no previews: {why}")
            return
        path = trainer.folder / "samples" / f"step-{trainer.step:07d}.png"
        ema = next(iter(trainer.emas.values()))
        trainer.network.eval()
        try:
            with Swapped(trainer.network, ema.tensors), torch.no_grad():
                if restoring:
                    self._restored(codec, path)
                else:
                    self._drawn(codec, path)
        except torch.OutOfMemoryError:
            self._can_preview = False
        finally:
            trainer.network.train()
        if self._can_preview:
            yield PreviewSaved(trainer.step, path)
        else:
            yield Warned(f"no previews: {NO_ROOM}")

    def _drawn(self, codec: Codec, path: Path) -> None:
        """Samples of the same few seeds, a row per class."""
        trainer, preview = self._trainer, self._trainer.config.preview
        facts, conditional = trainer.cache.facts, trainer.data.conditional
        if conditional:
            classes = range(min(facts.num_classes, preview.max_classes))
            labels = [k for k in classes for _ in range(preview.per_class)]
            names = [facts.class_names[k] for k in classes]
        else:
            labels, names = [0] * (preview.per_class * 4), None
        sampling = trainer.config.sampling.model_copy(update={"steps": preview.steps})
        if not conditional:
            sampling = sampling.model_copy(update={"guidance": NoGuidanceConfig()})
        latents = generate(
            trainer.network,
            diffusion_of(trainer.loss),
            sampling,
            facts.latent_shape,
            facts.num_classes if conditional else 0,
            list(range(len(labels))),
            labels if conditional else None,
            trainer.device,
        )
        images = decoded(codec, latents)
        labelled_grid(path, images, names, preview.per_class, sampling.uint8)

    def _restored(self, codec: Codec, path: Path) -> None:
        """Strips of some held-out images, as much hidden as the run ever hides."""
        trainer, config = self._trainer, self._trainer.config
        preview, split = config.preview, trainer.data.split
        some = split.held_out if len(split.held_out) else split.train
        count = min(preview.per_class * 4, len(some))
        # Evenly spread, as the rows of a class lie together.
        rows = some[torch.arange(count) * len(some) // count]
        ratio = trainer.data.mask_ratio.extremes(config.training.steps)[1]
        subset = hide(trainer.data.source.selector, trainer.network.grid, ratio, rows.tolist())
        strips = make_strips(
            trainer.network,
            codec,
            trainer.cache.read(rows).mean.to(trainer.device),
            None,
            subset.to(trainer.device),
            targets_are_normalised(config.masking),
            trainer.cache.facts.num_classes if trainer.data.conditional else 0,
        )
        save_strips(path, strips)


def held_out_accuracy(trainer: Trainer) -> Mapping[str, float]:
    """Percent of the held-out images by weights: `top1/online`, `top5/0.9999`, ..."""
    percent: dict[str, float] = {}
    trainer.network.eval()
    _add(percent, ONLINE, trainer)
    for decay, ema in trainer.emas.items():
        with Swapped(trainer.network, ema.tensors):
            _add(percent, f"{decay:g}", trainer)
    trainer.network.train()
    return percent


@torch.no_grad()
def _add(percent: dict[str, float], weights: str, trainer: Trainer) -> None:
    rows = trainer.data.split.held_out
    right = dict.fromkeys(TOP, 0)
    for part in rows.split(trainer.config.validation.batch_size):
        read = trainer.cache.read(part)
        # The mode of the posterior: one answer for each image.
        latents = read.mean.to(trainer.device)
        times_B = torch.zeros(len(part), device=trainer.device)
        logits_BK = trainer.network(latents, times_B, None).final
        for k in TOP:
            right[k] += int(hits(logits_BK, read.label.to(trainer.device), k).sum())
    for k in TOP:
        percent[f"top{k}/{weights}"] = 100 * right[k] / len(rows)
