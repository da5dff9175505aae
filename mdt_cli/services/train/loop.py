"""The one training loop: pretrain and finetune differ in the weights they start from."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.latent_cache.read import LatentCache, open_cache
from mdt_cli.artifacts.training_log import accuracy
from mdt_cli.config.load import Loaded
from mdt_cli.config.run import RunConfig
from mdt_cli.config.training import TrainingConfig
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.network import build_network, token_counts
from mdt_cli.services.events import (
    Event,
    Note,
    ScoresDone,
    StepDone,
    TrainingDone,
    Validated,
    Warned,
)
from mdt_cli.services.runtime import (
    Stop,
    check_precision,
    deferred_signals,
    make_accelerator,
    make_deterministic,
    pick_device,
)
from mdt_cli.services.train.trackers import Trackers
from mdt_cli.services.train.trainer import Trainer
from mdt_cli.services.train.validation import Monitor

if TYPE_CHECKING:
    from mdt_cli.services.train.online_metrics import Scorer

MANY_LENGTHS = 12
# Entries of a log record that are no losses.
FACTS = ("grad_norm", "mask_ratio")


@dataclass(frozen=True)
class TrainRequest:
    """`initial` gives the weights to start from, once the network is built; None: fresh ones.

    `source` is where these lie, for the record.
    """

    cache: Path
    run: Path
    loaded: Loaded
    stage: str
    fresh: int = 0
    device: str | None = None
    initial: Callable[[torch.nn.Module, LatentCache], Iterator[Event]] | None = None
    source: Path | None = None


def train(request: TrainRequest) -> Iterator[Event]:
    """Run or resume; ends with TrainingDone. Raises MdtError before the first step if it can."""
    check_precision(request.loaded.config.training.precision, request.device)
    cache = open_cache(request.cache, verify=True)
    device = pick_device(request.device)
    loaded = run_folder.with_determinism(request.run, request.loaded, device.type, request.fresh)
    request, config = replace(request, loaded=loaded), loaded.config
    make_deterministic(config.training.deterministic is True)
    accelerator = make_accelerator(config.training.precision, request.device)
    _check_data(request, cache, accelerator.num_processes)
    changed = run_folder.check(request.run, request.loaded, request.fresh, request.stage)
    network = _fresh_network(request, cache)
    trainer = Trainer(request.run, request.stage, config, cache, accelerator, network)
    resumed = False
    if not request.fresh:
        resumed = yield from trainer.resume()
    if not resumed and request.initial is not None:
        yield from request.initial(network, cache)
        trainer.restart_emas()
    scorer = None
    if config.evaluation.every:
        # Extractors and metrics are loaded only by a run that scores.
        from mdt_cli.services.train.online_metrics import open_scorer

        scorer = open_scorer(config, cache, trainer.loss, trainer.device)
    # Only now is everything checked that can be: a refused start leaves no trace.
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run_folder.write(
            request.run,
            request.loaded,
            request.stage,
            request.fresh,
            trainer.step,
            changed,
            request.source,
        )
        for change in changed:
            yield Note(f"changed after step {trainer.step}: {change}")
        yield from trainer.tidy()
    accelerator.wait_for_everyone()
    if config.data.conditional and not cache.facts.num_classes:
        yield Note("the cache has no classes: training is unconditional")
    if config.data.flip and not cache.facts.flip:
        yield Note("the cache has no flipped copies: data.flip has no effect")
    if config.training.compile:
        yield from _tell_lengths(config, network, trainer.step)
    with deferred_signals() as stop:
        yield from Loop(trainer, scorer).run(stop)


def _check_data(request: TrainRequest, cache: LatentCache, processes: int) -> None:
    training = request.loaded.config.training
    if training.num_micro_batches % processes:
        begun = request.fresh < 2 and (request.run / run_folder.CONFIG).is_file()
        raise MdtError(
            f"{training.num_micro_batches} micro-batches cannot be shared out evenly to "
            f"{processes} processes",
            "the run has begun with them: go on with as many processes as divide their number"
            if begun
            else even_shares(training, processes),
        )
    if cache.facts.count < 2:
        raise MdtError(f"the cache holds {cache.facts.count} image; training needs at least 2")


def even_shares(training: TrainingConfig, processes: int) -> str:
    """What to set so that every process gets as many micro-batches, none larger than now."""
    batch, size = training.batch_size, training.batch_size // training.num_micro_batches
    if batch % processes:
        batch += processes - batch % processes
    fits = next(n for n in range(min(size, batch), 0, -1) if batch % (n * processes) == 0)
    other = f"--set training.batch_size={batch} " if batch != training.batch_size else ""
    return (
        f"use {other}--set training.micro_batch_size={fits}, or another number of processes; "
        "the results depend on both sizes"
    )


def _too_large(training: TrainingConfig, processes: int, begun: bool) -> MdtError:
    """The step does not fit; the sizes that would are those that divide the batch evenly."""
    size = training.batch_size // training.num_micro_batches
    if begun:
        return MdtError(
            f"a micro-batch of {size} images does not fit the memory any more",
            "its size belongs to the run: free the GPU, or go on on one with more memory, from the "
            "newest checkpoint by the same command; another micro-batch needs a new run folder",
        )
    smaller = [n for n in range(1, size) if training.batch_size % (n * processes) == 0]
    return MdtError(
        f"a micro-batch of {size} images does not fit the memory",
        f"use --set training.micro_batch_size={smaller[-1]}: the same batch in more parts (with "
        "--fresh twice in the same folder)"
        if smaller
        else "choose a smaller model, another precision, or a GPU with more memory",
    )


def _tell_lengths(config: RunConfig, network: Transformer, step: int) -> Iterator[Event]:
    """Each number of tokens is compiled by itself, which takes tens of seconds."""
    lengths = token_counts(config, network.grid)
    if len(lengths) > MANY_LENGTHS:
        can_round = config.masking.selector.kind == "random" and not step
        rounded = "; --set masking.selector.bucket=16 rounds them to a few" if can_round else ""
        yield Warned(
            f"the mask ratio changes, so blocks see {len(lengths)} different numbers of tokens and "
            f"are compiled for each{rounded}"
        )


def _fresh_network(request: TrainRequest, cache: LatentCache) -> Transformer:
    with torch.random.fork_rng(devices=[]):
        # Parameter initialisers of torch read the global stream; it is put back afterwards.
        torch.manual_seed(stream(request.loaded.config.training.seed, "init").initial_seed())
        return build_network(
            request.loaded.config, cache.facts.latent_shape, cache.facts.num_classes
        )


class Loop:
    """Steps, and what is told and saved between them."""

    def __init__(self, trainer: Trainer, scorer: "Scorer | None") -> None:
        self._trainer, self._config = trainer, trainer.config
        self._monitor = Monitor(trainer, scorer)
        self._trackers = self._open_trackers()
        self._window: list[dict[str, Tensor]] = []
        self._since_log = time.monotonic()
        self._loss: float | None = None
        self._told_time = False

    def run(self, stop: Stop) -> Iterator[Event]:
        """Train from where the trainer stands to the last step; ends with TrainingDone."""
        trainer, config = self._trainer, self._config
        first, steps = trainer.step, config.training.steps
        if not first:
            yield from self._monitor.before_first_step()
        elif self._monitor.missed(first >= steps):
            yield from self._watch(first >= steps, stop)
            if first >= steps and stop.heard:
                stop.raise_if_asked(f"The run is at step {first} of {steps}.")
        begun = self._since_log = time.monotonic()
        accelerator = trainer.accelerator
        own = range(
            accelerator.process_index, config.training.num_micro_batches, accelerator.num_processes
        )
        for micro_batches in trainer.data.stream_of(first, steps, own, trainer.device):
            try:
                self._window.append(trainer.optimize(micro_batches))
            except torch.OutOfMemoryError as error:
                raise _too_large(config.training, accelerator.num_processes, first > 0) from error
            done = trainer.step == steps
            logged = self._log(done)
            yield StepDone(trainer.step, steps, self._loss if logged else None)
            if not stop.everywhere(accelerator):
                if trainer.step % config.checkpoint.every == 0 or done:
                    yield from trainer.save()
                yield from self._watch(done, stop)
            if stop.heard:
                yield from trainer.save()
                stop.raise_if_asked(
                    f"Saved step {trainer.step} of {steps}; run the same command again to go on."
                )
        if self._trackers is not None:
            self._trackers.close()
        if first >= steps:
            yield Note(f"nothing to do: the run is at step {first} of {steps}")
        yield TrainingDone(
            trainer.folder,
            trainer.step,
            time.monotonic() - begun,
            (trainer.step - first) * config.training.batch_size,
            self._loss,
            self._monitor.held_out,
            accuracy(trainer.folder) if accelerator.is_main_process else {},
        )

    def _watch(self, done: bool, stop: Stop) -> Iterator[Event]:
        try:
            yield from self._looked(done, stop)
        except torch.OutOfMemoryError as error:
            raise MdtError(
                f"step {self._trainer.step}: held-out losses or scores do not fit the memory "
                "beside the training",
                "halve validation.batch_size and evaluation.batch_size with --set; the run goes "
                "on from its newest checkpoint",
            ) from error
        if self._trackers is not None:
            yield from map(Warned, self._trackers.warnings)
            self._trackers.warnings.clear()

    def _looked(self, done: bool, stop: Stop) -> Iterator[Event]:
        for event in self._monitor.after_step(done, stop):
            yield event
            if isinstance(event, Validated) and self._trackers is not None:
                numbers = {f"held-out/{name}": loss for name, loss in event.losses.items()}
                self._trackers.log(event.step, numbers)
            if isinstance(event, ScoresDone):
                yield from self._tell_time(event)
                if self._trackers is not None:
                    named = {f"evaluation/{name}": value for name, value in event.scores.items()}
                    self._trackers.log(event.step, named)

    def _tell_time(self, event: ScoresDone) -> Iterator[Event]:
        """After the first scores: what the others will take."""
        left = (self._config.training.steps - event.step) // self._config.evaluation.every
        if self._told_time or not left:
            return
        self._told_time = True
        minutes = left * event.seconds / 60
        yield Note(
            f"scoring took {event.seconds:.0f} s; {left} more times are about {minutes:.0f} min "
            "of this run (evaluation.every, evaluation.count)"
        )

    def _open_trackers(self) -> Trackers | None:
        trainer, log = self._trainer, self._config.log
        if not trainer.accelerator.is_main_process or not (log.tensorboard or log.wandb):
            return None
        plain = self._config.model_dump(mode="json")
        return Trackers(log, trainer.folder, trainer.run_id, plain)

    def _log(self, done: bool) -> bool:
        """Every log.every steps, the means since the last record, over all processes."""
        trainer = self._trainer
        if trainer.step % self._config.log.every and not done:
            return False
        means: dict[str, float] = {}
        for name in self._window[0]:
            values = [entry[name].float().to(trainer.device) for entry in self._window]
            mean = torch.stack(values).mean()
            means[name] = float(trainer.accelerator.reduce(mean, "mean"))
        losses = {name: mean for name, mean in means.items() if name not in FACTS}
        self._loss = sum(losses.values())
        seconds = time.monotonic() - self._since_log
        record: dict[str, Any] = {
            "step": trainer.step,
            "images": trainer.images,
            "loss": self._loss,
            **{f"loss/{name}": mean for name, mean in losses.items()},
            "grad_norm": means["grad_norm"],
            "lr": trainer.lr,
            **({"mask_ratio": means["mask_ratio"]} if self._config.masking.is_masked else {}),
            "images_per_second": len(self._window) * self._config.training.batch_size / seconds,
        }
        if trainer.accelerator.is_main_process:
            run_folder.append(trainer.folder / run_folder.LOG, record)
            if self._trackers is not None:
                self._trackers.log(trainer.step, {k: v for k, v in record.items() if k != "step"})
        self._window.clear()
        self._since_log = time.monotonic()
        return True
