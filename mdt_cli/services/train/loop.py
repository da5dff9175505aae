"""The training loop, for both stages. Read from the top: the loop, then its step.

Axes: B batch.
"""

import time
from collections.abc import Iterator, Sequence

from torch import Tensor, tensor

from mdt_cli.artifacts.training_log import accuracy
from mdt_cli.core.objectives.training_step import View, sum_terms, term_losses
from mdt_cli.services.events import Event, Note, StepDone, TrainingDone
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.batches import MicroBatch, TrainData
from mdt_cli.services.train.divergence import not_saved
from mdt_cli.services.train.placement import Placement
from mdt_cli.services.train.state import TrainState
from mdt_cli.services.train.step_log import StepLog
from mdt_cli.services.train.watch import Watch


def run_loop(
    state: TrainState, data: TrainData, placement: Placement, watch: Watch, log: StepLog, stop: Stop
) -> Iterator[Event]:
    """Train from the step of `state` to the last; ends with TrainingDone. Stopped on a signal."""
    config, first, steps = data.config, state.step, data.config.training.steps
    yield from _looks_before(state, watch, stop)
    begun = time.monotonic()
    log.start()
    own = placement.own_micro_batches(config.training)
    for micro_batches in data.stream_of(first, steps, own, placement.device):
        with placement.step_memory(config.training, begun=first > 0):
            reported = train_step(state, data, placement, micro_batches)
        yield StepDone(state.step, steps, log.add(state, reported))
        if not stop.everywhere(placement.processes):
            yield from state.save_when_due()
            yield from watch.after_step(state.look(), stop)
        if stop.heard:
            yield from state.save()
            said = f"Saved step {state.step} of {steps}"
            if state.in_bad_streak:
                why = not_saved(state.folder, state.step, int(state.bad_steps))
                said = f"Step {state.step} of {steps}: {why}"
            stop.raise_if_asked(f"{said}; rerun the same command to resume.")
    if first >= steps:
        yield Note(f"nothing to do: the run is at step {first} of {steps}")
    yield TrainingDone(
        state.folder,
        state.step,
        time.monotonic() - begun,
        (state.step - first) * config.training.batch_size,
        log.loss,
        watch.held_out,
        accuracy(state.folder) if placement.is_first else {},
    )


def train_step(
    state: TrainState, data: TrainData, placement: Placement, micro_batches: list[MicroBatch]
) -> dict[str, Tensor]:
    """One optimizer step: a backward pass per view, gradients summed, EMA weights updated.

    Returns what is worth logging, still on the device: the weighted loss of each kind of
    view, the norm of the gradient and the mask ratio.
    """
    losses: dict[str, Tensor] = {}
    state.set_lr()
    placement.zero_grad()
    passes = [(batch, number) for batch in micro_batches for number in range(len(data.views))]
    for count, (micro_batch, number) in enumerate(passes, start=1):
        view = data.views[number]
        batch = micro_batch.of_view(number).to(placement.device)
        with placement.accumulate(last=count == len(passes)):
            with placement.autocast():
                losses_B = term_losses(
                    placement.model, data.loss, view, batch, state.network.patch_size, state.teach
                )
            terms = [loss_B.mean() for loss_B in losses_B]
            placement.backward(sum_terms(view, terms) / len(micro_batches))
        for name, term, loss in zip(term_names(view), view.terms, terms, strict=True):
            share = loss.detach() * (term.weight / len(micro_batches))
            losses[name] = losses.get(name, 0) + share
    norm = placement.clip(state.network, data.config.training.clip_norm)
    state.advance(placement.step(norm))
    state.update_averages()
    return {**losses, "grad_norm": norm, "mask_ratio": tensor(mean_ratio(micro_batches))}


def mean_ratio(micro_batches: Sequence[MicroBatch]) -> float:
    """Of the micro-batches of this process; the ratio itself where they share it."""
    ratios = [micro_batch.ratio for micro_batch in micro_batches]
    return ratios[0] if len(set(ratios)) == 1 else sum(ratios) / len(ratios)


def term_names(view: View) -> list[str]:
    """What the terms of a view are called in a log: "full", "masked", "masked-kept-..."."""
    branch = "full" if view.tokens == "all" else "masked"
    if len(view.terms) == 1:
        return [branch]
    return [f"{branch}-{term.name}" if term.name else branch for term in view.terms]


def _looks_before(state: TrainState, watch: Watch, stop: Stop) -> Iterator[Event]:
    """What is known before the first step, or what a kill after a checkpoint prevented."""
    look, steps = state.look(), state.data.config.training.steps
    if not state.step:
        yield from watch.before_first_step(look, stop)
    elif watch.missed(look):
        yield from watch.after_step(look, stop)
    if stop.heard:
        stop.raise_if_asked(
            f"The run is at step {state.step} of {steps}; rerun the same command to resume."
        )
