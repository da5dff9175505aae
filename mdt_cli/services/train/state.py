"""What a checkpoint holds: network, optimizer, EMA weights and counters."""

import shutil
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
    prune,
    read_state,
    restore_optimizer,
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
        self._damaged: list[Path] = []
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
            config.training.steps,
            schedule.warmup,
            schedule.kind,
            schedule.final,
            schedule.from_zero,
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
            raise MdtError(
                f"the gradient was not finite in {int(self.bad_steps)} steps in a row, the last "
                f"of them step {self.step}",
                "rerun the command with a lower --set optimizer.lr=..., --set "
                "training.clip_norm=1 or --set training.precision=bf16: it resumes from the "
                "newest checkpoint",
            )

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

    def save(self) -> Iterator[Event]:
        """Write the checkpoint of this step and remove those that rotation lets go."""
        folder = self.folder / "checkpoints" / f"step-{self.step:07d}"
        if not self.placement.is_first or _is_saved(folder, self.step):
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
        keep = config.checkpoint
        for old in prune(checkpoints(self.folder), keep.keep_last, keep.keep_every):
            _remove(old)
        yield CheckpointSaved(self.step, folder)

    def resume(self) -> Generator[Event, None, bool]:
        """Go back to the newest intact checkpoint; the generator returns whether there was one.

        Writes nothing. MdtError where there are checkpoints and none of them can be resumed.
        """
        for folder in (found := checkpoints(self.folder)):
            try:
                saved = read_state(folder)
            except DamagedError as error:
                self._damaged.append(folder)
                yield Warned(error.message)
                continue
            header = read_header(folder / WEIGHTS)
            if header.data["digest"] != self.data.cache.facts.digest:
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
        for folder in self._damaged:
            aside = run_folder.set_aside(folder)
            yield Warned(
                f"{folder.name} is damaged and was renamed to {aside}; the run resumes from an "
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
        self.bad_steps.fill_(saved.bad_steps)
        self.run_id = saved.run_id

    def _teacher_tensors(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else self.teacher.tensors


def _is_saved(folder: Path, step: int) -> bool:
    try:
        return read_state(folder).step == step
    except MdtError:
        return False


def _remove(folder: Path) -> None:
    """Rename first, so that a kill half-way leaves no checkpoint that seems intact."""
    doomed = folder.with_name(f".tmp-old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
