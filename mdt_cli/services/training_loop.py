"""The one training loop: pretrain and finetune differ in the weights they start from."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mdt_cli.config.load import Loaded
from mdt_cli.core.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    CheckpointState,
    Header,
    checkpoints,
    ema_file,
    flatten_optimizer,
    prune,
    read_header,
    read_state,
    read_tensors,
    restore_optimizer,
    write_checkpoint,
)
from mdt_cli.core.data.latents import LatentCache, open_cache
from mdt_cli.core.ema import Ema
from mdt_cli.core.objectives.step import view_loss
from mdt_cli.core.rng import stream
from mdt_cli.core.schedules import lr_factor
from mdt_cli.errors import MdtError
from mdt_cli.services import build, run_folder
from mdt_cli.services.events import (
    CheckpointSaved,
    Event,
    Note,
    StepDone,
    TrainingDone,
    Warned,
)
from mdt_cli.services.monitor import Monitor
from mdt_cli.services.runtime import Stop, check_precision, deferred_signals, make_accelerator
from mdt_cli.services.trackers import Trackers
from mdt_cli.services.train_data import MicroBatch, TrainData, split_rows
from mdt_cli.services.trained import put_weights


@dataclass(frozen=True)
class TrainRequest:
    """`initial` gives the weights to start from, once the network is built; None: fresh ones."""

    cache: Path
    run: Path
    loaded: Loaded
    stage: str
    fresh: int = 0
    device: str | None = None
    initial: Callable[[torch.nn.Module, LatentCache], Iterator[Event]] | None = None


def train(request: TrainRequest) -> Iterator[Event]:
    """Run or resume; ends with TrainingDone. Raises MdtError before the first step if it can."""
    config = request.loaded.config
    check_precision(config.training.precision, request.device)
    cache = open_cache(request.cache, verify=True)
    accelerator = make_accelerator(config.training.precision, request.device)
    _check_data(request.loaded, cache, accelerator)
    network = _fresh_network(request, cache)
    if accelerator.is_main_process:
        run_folder.prepare(request.run, request.loaded, request.stage, request.fresh)
    accelerator.wait_for_everyone()
    trainer = Trainer(request, cache, accelerator, network)
    resumed = yield from trainer.resume()
    if not resumed and request.initial is not None:
        yield from request.initial(network, cache)
        trainer.restart_emas()
    if config.data.conditional and not cache.facts.num_classes:
        yield Note("the cache has no classes: training is unconditional")
    if config.data.flip and not cache.facts.flip:
        yield Note("the cache has no flipped copies: data.flip has no effect")
    with deferred_signals() as stop:
        yield from trainer.run(stop)


def _check_data(loaded: Loaded, cache: LatentCache, accelerator: Accelerator) -> None:
    training = loaded.config.training
    if training.num_micro_batches % accelerator.num_processes:
        raise MdtError(
            f"{training.num_micro_batches} micro-batches cannot be shared out evenly to "
            f"{accelerator.num_processes} processes",
            f"set training.micro_batch_size so that training.batch_size {training.batch_size} is "
            f"a multiple of {accelerator.num_processes} micro-batches, such as "
            f"--set training.micro_batch_size={training.batch_size // accelerator.num_processes}",
        )
    if cache.facts.count < 2:
        raise MdtError(f"the cache holds {cache.facts.count} image; training needs at least 2")


def _fresh_network(request: TrainRequest, cache: LatentCache) -> Any:
    with torch.random.fork_rng(devices=[]):
        # Parameter initialisers of torch read the global stream; it is put back afterwards.
        torch.manual_seed(stream(request.loaded.config.training.seed, "init").initial_seed())
        return build.build_network(
            request.loaded.config, cache.facts.latent_shape, cache.facts.num_classes
        )


@dataclass
class Trainer:
    """Network, optimizer, averages and counters of one run on one process."""

    request: TrainRequest
    cache: LatentCache
    accelerator: Accelerator
    network: Any
    step: int = 0
    images: int = 0
    bad_steps: int = 0
    run_id: str = ""
    _window: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config = self.request.loaded.config
        self.device = self.accelerator.device
        self.network.to(self.device)
        self.objective = build.build_objective(config.objective)
        self.views = tuple(build.build_views(config.masking))
        self.data = TrainData(
            config,
            self.cache,
            split_rows(self.cache.facts.count, config.data.held_out, config.training.seed),
            self.objective,
            self.views,
            build.build_mask_ratio(config.masking),
            self.network.num_tokens,
        )
        if config.training.compile:
            for block in self.network.blocks:
                block.compile(dynamic=False)
        optimizer = build.build_optimizer(config.optimizer, self.network)
        self.model, self.optimizer = self.accelerator.prepare(self.network, optimizer)
        self.restart_emas()

    def restart_emas(self) -> None:
        """Averages start as copies of the weights the run starts from."""
        ema = self.config.ema
        self.emas = {decay: Ema(self.network, decay, ema.warmup) for decay in ema.decays}

    # --- resume and save

    def resume(self) -> Iterator[Event]:
        """Go back to the newest checkpoint that verifies; the generator returns whether one did."""
        for folder in checkpoints(self.request.run):
            try:
                state = read_state(folder)
            except MdtError as error:
                yield Warned(f"{error.message}; falling back to the checkpoint before it")
                continue
            header = read_header(folder / WEIGHTS)
            if header.data["digest"] != self.cache.facts.digest:
                raise MdtError(
                    f"{self.request.run} was trained on another cache than {self.request.cache}",
                    "give the same cache, or choose another run folder",
                )
            self._restore(folder, state)
            if self.accelerator.is_main_process:
                for name in (run_folder.LOG, run_folder.METRICS):
                    run_folder.rewind(self.request.run / name, self.step)
            yield Note(f"resuming {self.request.run} at step {self.step}")
            return True
        self.run_id = f"{stream(time.time_ns()).initial_seed():08x}"
        if self.accelerator.is_main_process:
            for name in (run_folder.LOG, run_folder.METRICS):
                run_folder.rewind(self.request.run / name, 0)
        return False

    def _restore(self, folder: Path, state: CheckpointState) -> None:
        put_weights(self.network, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
        for decay, ema in self.emas.items():
            ema.load(read_tensors(folder / ema_file(decay)))
        restore_optimizer(self.optimizer.optimizer, read_tensors(folder / OPTIMIZER))
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state.scaler))
        self.step, self.images = state.step, state.images
        self.bad_steps, self.run_id = state.bad_steps, state.run_id

    def save(self) -> Iterator[Event]:
        """Write the checkpoint of this step and remove those that rotation lets go."""
        folder = self.request.run / "checkpoints" / f"step-{self.step:07d}"
        if not self.accelerator.is_main_process or self._is_saved(folder):
            return
        scaler = self.accelerator.scaler
        write_checkpoint(
            folder,
            Header(
                self.config.model_dump(mode="json"),
                self.cache.facts.header(),
                self.step,
                "online",
                self.request.stage,
            ),
            dict(self.network.named_parameters()),
            {decay: ema.tensors for decay, ema in self.emas.items()},
            flatten_optimizer(self.optimizer.optimizer),
            CheckpointState(
                self.step,
                self.images,
                self.bad_steps,
                None if scaler is None else scaler.state_dict(),
                self.run_id,
            ),
        )
        keep = self.config.checkpoint
        for old in prune(checkpoints(self.request.run), keep.keep_last, keep.keep_every):
            _remove(old)
        yield CheckpointSaved(self.step, folder)

    def _is_saved(self, folder: Path) -> bool:
        try:
            return read_state(folder).step == self.step
        except MdtError:
            return False

    # --- the loop

    def run(self, stop: Stop) -> Iterator[Event]:
        config, first = self.config, self.step
        monitor = Monitor(self)
        trackers = self._open_trackers()
        begun = self._since_log = time.monotonic()
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        own = range(rank, config.training.num_micro_batches, processes)
        steps = config.training.steps
        for micro_batches in self.data.stream_of(first, steps, own, self.device):
            self._optimize(micro_batches)
            done = self.step == steps
            record = self._log(done, trackers)
            yield StepDone(self.step, steps, None if record is None else record["loss"])
            if trackers is not None:
                yield from map(Warned, trackers.warnings)
                trackers.warnings.clear()
            if self._everyone_stops(stop):
                yield from self.save()
                stop.signum = stop.signum or 15
                stop.raise_if_asked(
                    f"Saved step {self.step} of {steps}; run the same command again to go on."
                )
            if self.step % config.checkpoint.every == 0 or done:
                yield from self.save()
            for event in monitor.after_step(done):
                yield event
                numbers = getattr(event, "losses", None)
                if numbers and trackers is not None:
                    trackers.log(self.step, {f"held-out/{k}": v for k, v in numbers.items()})
        if trackers is not None:
            trackers.close()
        seconds = time.monotonic() - begun
        images = (self.step - first) * config.training.batch_size
        if first >= steps:
            yield Note(f"nothing to do: the run is at step {first} of {steps}")
        yield TrainingDone(
            self.request.run, self.step, seconds, images, monitor.last_loss, monitor.held_out
        )

    def _open_trackers(self) -> Trackers | None:
        log = self.config.log
        if not self.accelerator.is_main_process or not (log.tensorboard or log.wandb):
            return None
        return Trackers(log, self.request.run, self.run_id, self.config.model_dump(mode="json"))

    def _optimize(self, micro_batches: list[MicroBatch]) -> None:
        """One optimizer step: a backward pass per view, gradients summed, averages updated."""
        config = self.config
        schedule = config.lr_schedule
        factor = lr_factor(
            self.step, config.training.steps, schedule.warmup, schedule.kind, schedule.final
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        passes = [(batch, number) for batch in micro_batches for number in range(len(self.views))]
        for place, (batch, number) in enumerate(passes):
            last = place + 1 == len(passes)
            # Gradients travel between processes once, with the last backward pass.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._view_loss(batch, number)
                weight = self.views[number].weight / len(micro_batches)
                self.accelerator.backward(loss * weight)
            name = view_name(self.views[number].tokens)
            losses[name] = losses.get(name, 0) + loss.detach() * weight
        norm = self.accelerator.clip_grad_norm_(
            self.network.parameters(), config.training.clip_norm or math.inf
        )
        finite = bool(torch.isfinite(norm))
        if finite or self.accelerator.scaler is not None:
            # A loss scaler leaves the step out by itself, and must see it to lower its scale.
            self.optimizer.step()
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if self.bad_steps >= config.training.max_bad_steps:
            raise MdtError(
                f"the gradient was not finite in {self.bad_steps} steps in a row, the last of them "
                f"step {self.step + 1}",
                "lower optimizer.lr, set training.clip_norm=1 or training.precision=bf16; the "
                "newest checkpoint is kept",
            )
        self.step += 1
        self.images += config.training.batch_size
        if finite:
            for ema in self.emas.values():
                ema.update(self.network, self.step)
        self._window.append(
            {**losses, "grad_norm": norm, "mask_ratio": torch.tensor(micro_batches[0].ratio)}
        )

    def _view_loss(self, batch: MicroBatch, number: int) -> Tensor:
        clean = batch.clean.to(self.device, non_blocking=True)
        draw = batch.draws[number].to(self.device)
        with self.accelerator.autocast():
            loss_B = view_loss(
                self.model,
                self.objective,
                self.views[number],
                draw,
                clean,
                batch.t_B,
                self.network.patch_size,
            )
        return loss_B.mean()

    def _log(self, done: bool, trackers: Trackers | None) -> dict[str, Any] | None:
        """Every log.every steps, the means since the last record, over all processes."""
        every = self.config.log.every
        if self.step % every and not done:
            return None
        means: dict[str, float] = {}
        for name in self._window[0]:
            values = [entry[name].float() for entry in self._window]
            mean = torch.stack([value.to(self.device) for value in values]).mean()
            means[name] = float(self.accelerator.reduce(mean, "mean"))
        masked = any(view.tokens == "kept" for view in self.views)
        seconds = time.monotonic() - self._since_log
        names = [name for name in means if name not in ("grad_norm", "mask_ratio")]
        record: dict[str, Any] = {
            "step": self.step,
            "images": self.images,
            "loss": sum(means[name] for name in names),
            **{f"loss/{name}": means[name] for name in names},
            "grad_norm": means["grad_norm"],
            "lr": self.optimizer.param_groups[0]["lr"],
            **({"mask_ratio": means["mask_ratio"]} if masked else {}),
            "images_per_second": len(self._window) * self.config.training.batch_size / seconds,
        }
        if self.accelerator.is_main_process:
            run_folder.append(self.request.run / run_folder.LOG, record)
            if trackers is not None:
                trackers.log(self.step, {k: v for k, v in record.items() if k != "step"})
        self._window.clear()
        self._since_log = time.monotonic()
        self.last_record: Mapping[str, Any] = record
        return record

    def _everyone_stops(self, stop: Stop) -> bool:
        """Whether any process was asked to stop: all leave the loop after the same step."""
        if self.accelerator.num_processes == 1:
            return stop.signum is not None
        asked = torch.tensor(float(stop.signum is not None), device=self.device)
        return float(self.accelerator.reduce(asked, "sum")) > 0


def view_name(tokens: str) -> str:
    return "full" if tokens == "all" else "masked"


def _remove(folder: Path) -> None:
    """Rename first, so that a kill half-way leaves no checkpoint that looks whole."""
    import shutil

    doomed = folder.with_name(f".tmp-old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
