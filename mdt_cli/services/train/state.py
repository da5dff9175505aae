"""What a checkpoint holds: network, optimizer, EMA weights and counters."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    CheckpointState,
    DamagedError,
    checkpoints,
    ema_file,
    flatten_optimizer,
    is_saved,
    read_state,
    restore_optimizer,
    rotate,
    write_checkpoint,
)
from mdt_cli.artifacts.weights import Header, read_header, read_tensors
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.optim.ema import AveragedModule
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.averages import build_averages
from mdt_cli.services.build.network import token_counts
from mdt_cli.services.build.optimizer import build_optimizer
from mdt_cli.services.events import CheckpointSaved, Event, Note, Warned
from mdt_cli.services.model import put_weights
from mdt_cli.services.train.batches import TrainData
from mdt_cli.services.train.divergence import diverged, ruined_end
from mdt_cli.services.train.look import Look
from mdt_cli.services.train.placement import Placement, compile_blocks

# In front of the names of the EMA decoder's tensors, in the optimizer's file.
TEACHER = "teacher/"


class TrainState:
    """Everything that a resumed run restores. `step` counts finished optimizer steps.

    Random numbers are no state: they are functions of the seed and the step.
    """

    def __init__(
        self, folder: Path, stage: str, data: TrainData, placement: Placement, network: Transformer
    ) -> None:
        self.folder, self.stage, self.data = folder, stage, data
        self.placement = placement
        self.step = self.images = 0
        self.bad_steps = torch.zeros((), device=placement.device)
        self.run_id = f"{stream(time.time_ns()).initial_seed():08x}"
        self._passed: list[tuple[Path, str]] = []
        # A checkpoint that a streak put off; one of `_saved_at` that waits for a good step.
        self._due, self._unproven, self._saved_at = False, False, 0
        self.network = network.to(placement.device)
        if data.config.training.compile:
            compile_blocks(network.blocks, len(token_counts(data.config, network.grid)))
        self.optimizer = build_optimizer(data.config.optimizer, network)
        placement.wrap(network, self.optimizer)
        self.restart_averages()

    def restart_averages(self) -> None:
        """New EMA weights, and the EMA decoder where masking has one, from the present weights."""
        config = self.data.config
        self.averages = build_averages(config.ema, self.network)
        self.teacher = None
        if config.masking.has_teacher:
            self.teacher = AveragedModule(self.network.patch_decoder(), config.ema.teacher_decay)

    def set_lr(self) -> None:
        """The learning rate of the coming step, in every group of the optimizer."""
        config, schedule = self.data.config, self.data.config.lr_schedule
        factor = lr_factor(
            self.step,
            config.schedule_steps,
            schedule.warmup,
            schedule.kind,
            schedule.final,
            schedule.starts_at_zero,
            schedule.tail,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.lr * factor * group["lr_scale"]

    @property
    def lr(self) -> float:
        """The rate of the last step, where it is not lowered for a layer."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["lr_scale"])

    def advance(self, bad: Tensor) -> None:
        """Count a step; MdtError once training.max_bad_steps in a row had no finite gradient.

        `bad`: 1. for such a gradient, else 0. A GPU is asked for it only now and then.
        """
        self.step += 1
        self.images += self.data.config.training.batch_size
        self.bad_steps = (self.bad_steps + 1) * bad
        limit = self.data.config.training.max_bad_steps
        if self.placement.device.type != "cpu" and self.step % limit:
            return
        if self.bad_steps >= limit:
            first, scaled = self.placement.is_first, self.placement.scaler is not None
            raise diverged(self.folder, self.step, int(self.bad_steps), first, scaled)

    def update_averages(self) -> None:
        """Blend the parameters of the step just counted into all EMA weights."""
        for average in self.averages.values():
            average.update(self.network, self.step)
        if self.teacher is not None:
            self.teacher.update()

    def teach(self, scaled: Tensor, c_BD: Tensor | None) -> Tensor:
        """The EMA decoder's raw output for latents of which it sees every token (MC-DiT)."""
        assert self.teacher is not None
        output: Tensor = self.teacher.module(scaled, c_BD)
        return output

    def look(self) -> Look:
        """The run as it stands, for those who watch it."""
        averages = {name: average.tensors for name, average in self.averages.items()}
        return Look(self.network, averages, self.data, self.step, self.folder)

    def save_when_due(self) -> Iterator[Event]:
        """Save every checkpoint.every steps and at the end; MdtError where the end is ruined."""
        config = self.data.config
        last = self.step >= config.training.steps
        self._due |= last or self.step % config.checkpoint.every == 0
        if not (self._due or self._unproven):
            return
        if self.in_bad_streak:
            if last:
                raise ruined_end(self.folder, self.step, int(self.bad_steps))
            return
        if self._unproven and self.step > self._saved_at:
            self._prune()
        if self._due:
            yield from self.save()
        if last:
            self._prune()

    @property
    def in_bad_streak(self) -> bool:
        """Whether the last step had no finite gradient: its weights may be ruined.

        The loss scaler of fp16 looks for its scale by such steps; the last one of a run may be one.
        """
        last = self.step >= self.data.config.training.steps
        return bool(self.bad_steps > 0) and not (last and self.placement.scaler is not None)

    def _prune(self) -> None:
        self._unproven = False
        if self.placement.is_first:
            keep = self.data.config.checkpoint
            rotate(self.folder, keep.keep_last, keep.keep_every)

    def save(self) -> Iterator[Event]:
        """Write the checkpoint of this step, but never within a streak of bad steps.

        Rotation waits for a good step from these weights: until then the one before them stays.
        """
        folder = self.folder / "checkpoints" / f"step-{self.step:07d}"
        if self.in_bad_streak:
            return
        self._due, self._unproven, self._saved_at = False, True, self.step
        if not self.placement.is_first or is_saved(folder, self.step):
            return
        config, scaler = self.data.config, self.placement.scaler
        write_checkpoint(
            folder,
            Header(
                config.model_dump(mode="json"),
                self.data.cache.facts.header(),
                self.step,
                "online",
                self.stage,
            ),
            dict(self.network.named_parameters()),
            {name: average.tensors for name, average in self.averages.items()},
            {
                **flatten_optimizer(self.optimizer),
                **{TEACHER + name: tensor for name, tensor in self._teacher_tensors().items()},
            },
            CheckpointState(
                self.step,
                self.images,
                int(self.bad_steps),
                None if scaler is None else scaler.state_dict(),
                self.run_id,
            ),
        )
        yield CheckpointSaved(self.step, folder)

    def resume(self) -> Generator[Event, None, bool]:
        """Go back to the newest intact checkpoint; the generator returns whether there was one.

        Writes nothing. MdtError where there are checkpoints and none of them can be resumed.
        """
        found = checkpoints(self.folder)
        for folder in found:
            try:
                saved = read_state(folder)
            except DamagedError as error:
                self._passed.append((folder, "damaged"))
                yield Warned(error.message)
                continue
            # Earlier versions saved within a streak as well. fp16 has such steps as a matter of
            # course, and its scaler is saved.
            if saved.bad_steps and saved.scaler is None and folder != found[-1]:
                self._passed.append((folder, "diverged"))
                yield Warned(
                    f"{folder.name} was saved after {saved.bad_steps} steps without a finite "
                    "gradient"
                )
                continue
            header = read_header(folder / WEIGHTS)
            if header.data.get("digest") != self.data.cache.facts.digest:
                raise MdtError(
                    f"{self.folder} was trained on another cache than the one given",
                    "give the same cache, or choose another run folder",
                )
            self._restore(folder, saved)
            yield Note(f"resuming {self.folder} at step {self.step}")
            return True
        if found:
            raise MdtError(
                f"no checkpoint of {self.folder} is intact: "
                + ", ".join(folder.name for folder in found),
                "restore one of them from a copy, or give --fresh twice to start over",
            )
        return False

    def tidy(self) -> Iterator[Event]:
        """Leave in the folder what belongs to the run up to its present step."""
        for folder, why in self._passed:
            aside = run_folder.set_aside(folder, why)
            yield Warned(
                f"{folder.name} is {why} and was renamed to {aside}; the run resumes from an "
                "earlier step"
            )
        for name in (run_folder.LOG, run_folder.METRICS):
            run_folder.rewind(self.folder / name, self.step)

    def _restore(self, folder: Path, saved: CheckpointState) -> None:
        put_weights(self.network, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
        for name, average in self.averages.items():
            average.load(read_tensors(folder / ema_file(name)))
        tensors = read_tensors(folder / OPTIMIZER)
        teacher = {k: tensors.pop(TEACHER + k) for k in self._teacher_tensors()}
        if self.teacher is not None:
            self.teacher.load(teacher)
        restore_optimizer(self.optimizer, tensors)
        if self.placement.scaler is not None and saved.scaler is not None:
            self.placement.scaler.load_state_dict(dict(saved.scaler))
        self.step, self.images = saved.step, saved.images
        self.bad_steps.fill_(saved.bad_steps if saved.scaler is not None else 0)
        self.run_id = saved.run_id

    def _teacher_tensors(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else self.teacher.tensors
