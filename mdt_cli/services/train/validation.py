"""Held-out loss and accuracy of a run, by its own weights and by each of its EMA weights.

Axes: B batch, K classes.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace

import torch

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.training_log import TOP
from mdt_cli.artifacts.weights import ONLINE
from mdt_cli.core.batch import Batch
from mdt_cli.core.objectives.classification import hits
from mdt_cli.core.objectives.training_step import View, view_loss
from mdt_cli.core.rng import stream
from mdt_cli.services.events import Classified, Event, Validated
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.look import CUT, Look


def validate(look: Look, stop: Stop) -> Iterator[Event]:
    """Compute, write to `metrics.jsonl`, report. Stopped between two batches, with no record."""
    losses = yield from held_out_losses(look, stop)
    percent = held_out_accuracy(look, stop) if look.data.loss.classifies else {}
    record = {"step": look.step, **{f"held_out/{k}": v for k, v in losses.items()}, **percent}
    run_folder.append(look.folder / run_folder.METRICS, record)
    yield Validated(look.step, losses)
    if percent:
        yield Classified(look.step, percent)


def held_out_losses(look: Look, stop: Stop) -> Generator[Event, None, dict[str, float]]:
    """Mean loss by view and weights, such as `masked/0.9999`, at times and noise that are fixed."""
    losses: dict[str, float] = {}
    for average in (None, *look.averages):
        with look.evaluating(average):
            for name, view in _views(look).items():
                key = f"{name}/{average or ONLINE}"
                losses[key] = yield from _held_out_loss(look, view, stop, key)
    return losses


def _views(look: Look) -> dict[str, View]:
    """The plain pass, and the masked one; of the final head, without targets of an EMA decoder."""
    data = look.data
    # Without noise, what is seen is its own answer: there is nothing to measure.
    hides = data.loss.restores and data.config.masking.is_masked
    views = {} if hides else {"full": View("all")}
    for view in data.views:
        if view.tokens == "kept":
            own = tuple(
                term
                for term in view.terms
                if term.head == "final" and not term.target.startswith("teacher")
            )
            views["masked"] = replace(view, terms=own)
    return views


@torch.no_grad()
def _held_out_loss(look: Look, view: View, stop: Stop, key: str) -> Generator[Event, None, float]:
    data, rows = look.data, look.data.split.held_out
    config = data.config
    size, seed = config.validation.batch_size, config.training.seed
    # One ratio for the whole run, so that its losses can be compared with each other.
    ratio = data.mask_ratio.mean(config.schedule_steps)
    source = replace(data.source, class_dropout=0.0)
    total = 0.0
    for start in range(0, len(rows), size):
        stop.raise_if_asked(CUT)
        part = rows[start : start + size]
        generator = stream(seed, "held-out loss", start)
        read = data.cache.read(part)
        clean = data.clean_latents(read, generator)
        # Times spread evenly over their distribution, in an order unrelated to the rows.
        share = (torch.randperm(len(part), generator=generator) + 0.5) / len(part)
        drawn = source.draw(view, tuple(clean.shape), data.condition(read), ratio, generator)
        batch = Batch(
            clean, data.loss.quantile_time(share), drawn.noise, drawn.condition, drawn.subset
        ).to(look.device)
        loss_B = view_loss(look.network, data.loss, view, batch, look.network.patch_size)
        total += float(loss_B.sum())
        yield look.progress(f"held-out loss {key}, {start + len(part)} of {len(rows)} images")
    return total / len(rows)


def held_out_accuracy(look: Look, stop: Stop) -> Mapping[str, float]:
    """Percent of the held-out images by weights: `top1/online`, `top5/0.9999`, ..."""
    percent: dict[str, float] = {}
    for average in (None, *look.averages):
        with look.evaluating(average):
            for k, value in _accuracy(look, stop).items():
                percent[f"top{k}/{average or ONLINE}"] = value
    return percent


@torch.no_grad()
def _accuracy(look: Look, stop: Stop) -> dict[int, float]:
    rows = look.data.split.held_out
    right = dict.fromkeys(TOP, 0)
    for part in rows.split(look.data.config.validation.batch_size):
        stop.raise_if_asked(CUT)
        read = look.data.cache.read(part)
        # The mode of the posterior: one answer for each image.
        latents = look.data.clean_latents(read, None).to(look.device)
        times_B = torch.zeros(len(part), device=look.device)
        logits_BK = look.network(latents, times_B, None).final
        for k in TOP:
            right[k] += int(hits(logits_BK, read.label.to(look.device), k).sum())
    return {k: 100 * right[k] / len(rows) for k in TOP}
