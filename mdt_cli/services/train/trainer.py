"""The state of a run on one process, and the two things it can do: a step, a checkpoint."""

import math
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
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
from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.artifacts.weights import Header, read_header, read_tensors
from mdt_cli.config.run import RunConfig
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.training_step import View, ViewSource, sum_terms, term_losses
from mdt_cli.core.optim.ema import AveragedModule, Ema
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.files import remove_leftovers
from mdt_cli.services.build.masking import build_selector, build_views
from mdt_cli.services.build.network import token_counts
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.build.optimizer import build_optimizer
from mdt_cli.services.build.ratio import build_mask_ratio
from mdt_cli.services.events import CheckpointSaved, Event, Note, Warned
from mdt_cli.services.model import put_weights
from mdt_cli.services.runtime import compile_blocks
from mdt_cli.services.train.batches import MicroBatch, TrainData, split_rows

# In front of the names of the averaged decoder's tensors, in the optimizer's file.
TEACHER = "teacher/"


class Trainer:
    """Network, optimizer, averages and counters. `step` counts finished optimizer steps."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        config: RunConfig,
        cache: LatentCache,
        accelerator: Accelerator,
        network: Transformer,
    ) -> None:
        self.folder, self.stage, self.config = folder, stage, config
        self.cache, self.accelerator = cache, accelerator
        self.step = self.images = 0
        self._damaged: list[Path] = []
        self.run_id = f"{stream(time.time_ns()).initial_seed():08x}"
        self.device = accelerator.device
        self._bad_steps = torch.zeros((), device=self.device)
        self.network = network.to(self.device)
        self.loss = build_loss(config.objective)
        self.views = tuple(build_views(config.masking))
        self.data = TrainData(
            config,
            cache,
            split_rows(cache.facts.count, config.data.held_out, config.training.seed),
            self.loss,
            self.views,
            build_mask_ratio(config.masking),
            ViewSource(
                build_selector(config.masking, network.grid),
                network.grid,
                cache.facts.num_classes,
                config.data.class_dropout,
            ),
        )
        if config.training.compile:
            compile_blocks(network.blocks, len(token_counts(config, network.grid)))
        optimizer = build_optimizer(config.optimizer, network)
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.restart_emas()

    def restart_emas(self) -> None:
        """Averages start as copies of the weights the run starts from."""
        ema = self.config.ema
        self.emas = {decay: Ema(self.network, decay, ema.warmup) for decay in ema.decays}
        self.teacher = None
        if self.config.masking.has_teacher:
            self.teacher = AveragedModule(self.network.patch_decoder(), ema.teacher_decay)

    def resume(self) -> Generator[Event, None, bool]:
        """Go back to the newest checkpoint that verifies; the generator returns whether one did.

        Writes nothing. MdtError where there are checkpoints and none of them can be gone on with.
        """
        for folder in (found := checkpoints(self.folder)):
            try:
                state = read_state(folder)
            except DamagedError as error:
                self._damaged.append(folder)
                yield Warned(error.message)
                continue
            header = read_header(folder / WEIGHTS)
            if header.data["digest"] != self.cache.facts.digest:
                raise MdtError(
                    f"{self.folder} was trained on another cache than the one given",
                    "give the same cache, or choose another run folder",
                )
            self._restore(folder, state)
            yield Note(f"resuming {self.folder} at step {self.step}")
            return True
        if found:
            raise MdtError(
                f"no checkpoint of {self.folder} is whole: "
                + ", ".join(folder.name for folder in found),
                "restore one of them from a copy, or give --fresh twice to start over",
            )
        return False

    def tidy(self) -> Iterator[Event]:
        """Leave in the folder what belongs to the run up to its present step."""
        for folder in self._damaged:
            aside = run_folder.set_aside(folder)
            yield Warned(f"{folder.name} is damaged and now {aside}; the run goes on before it")
        remove_leftovers(self.folder / "checkpoints")
        for name in (run_folder.LOG, run_folder.METRICS):
            run_folder.rewind(self.folder / name, self.step)

    def _restore(self, folder: Path, state: CheckpointState) -> None:
        put_weights(self.network, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
        for decay, ema in self.emas.items():
            ema.load(read_tensors(folder / ema_file(decay)))
        tensors = read_tensors(folder / OPTIMIZER)
        teacher = {k: tensors.pop(TEACHER + k) for k in self._teacher_tensors()}
        if self.teacher is not None:
            self.teacher.load(teacher)
        restore_optimizer(self.optimizer.optimizer, tensors)
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state.scaler))
        self.step, self.images = state.step, state.images
        self._bad_steps.fill_(state.bad_steps)
        self.run_id = state.run_id

    @property
    def lr(self) -> float:
        """The rate of the last step, where it is not lowered for a layer."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["lr_scale"])

    def _teacher_tensors(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else self.teacher.tensors

    def save(self) -> Iterator[Event]:
        """Write the checkpoint of this step and remove those that rotation lets go."""
        folder = self.folder / "checkpoints" / f"step-{self.step:07d}"
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
                self.stage,
            ),
            dict(self.network.named_parameters()),
            {decay: ema.tensors for decay, ema in self.emas.items()},
            {
                **flatten_optimizer(self.optimizer.optimizer),
                **{TEACHER + name: tensor for name, tensor in self._teacher_tensors().items()},
            },
            CheckpointState(
                self.step,
                self.images,
                int(self._bad_steps),
                None if scaler is None else scaler.state_dict(),
                self.run_id,
            ),
        )
        keep = self.config.checkpoint
        for old in prune(checkpoints(self.folder), keep.keep_last, keep.keep_every):
            _remove(old)
        yield CheckpointSaved(self.step, folder)

    def _is_saved(self, folder: Path) -> bool:
        try:
            return read_state(folder).step == self.step
        except MdtError:
            return False

    def optimize(self, micro_batches: list[MicroBatch]) -> dict[str, Tensor]:
        """One optimizer step: a backward pass per view, gradients summed, averages updated.

        Returns what is worth logging, still on the device: the weighted loss of each kind of
        view, the norm of the gradient and the mask ratio.
        """
        config = self.config
        schedule = config.lr_schedule
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
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        passes = [(batch, number) for batch in micro_batches for number in range(len(self.views))]
        for place, (batch, number) in enumerate(passes):
            last, view = place + 1 == len(passes), self.views[number]
            # Gradients travel between processes once, with the last backward pass.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                terms = [term.mean() for term in self._term_losses(batch, number)]
                self.accelerator.backward(sum_terms(view, terms) / len(micro_batches))
            for name, term, loss in zip(term_names(view), view.terms, terms, strict=True):
                share = loss.detach() * (term.weight / len(micro_batches))
                losses[name] = losses.get(name, 0) + share
        norm = self.accelerator.clip_grad_norm_(
            self.network.parameters(), config.training.clip_norm or math.inf
        )
        self._update_weights(norm)
        self.step += 1
        self.images += config.training.batch_size
        for ema in self.emas.values():
            ema.update(self.network, self.step)
        if self.teacher is not None:
            self.teacher.update()
        return {**losses, "grad_norm": norm, "mask_ratio": torch.tensor(micro_batches[0].ratio)}

    def _update_weights(self, norm: Tensor) -> None:
        """Step the optimizer; a gradient that is not finite leaves the weights as they are.

        The optimizer decides that on the device: the host does not wait for it, but looks now
        and then whether the run is past saving.
        """
        bad = (~torch.isfinite(norm)).to(self._bad_steps)
        if self.accelerator.scaler is None:
            # A loss scaler sets this itself, and lowers its scale.
            self.optimizer.optimizer.found_inf = bad
        self.optimizer.step()
        self._bad_steps = (self._bad_steps + 1) * bad
        limit = self.config.training.max_bad_steps
        if self.device.type != "cpu" and (self.step + 1) % limit:
            return
        if self._bad_steps >= limit:
            raise MdtError(
                f"the gradient was not finite in {int(self._bad_steps)} steps in a row, the last "
                f"of them step {self.step + 1}",
                "run the same command again with a lower --set optimizer.lr=..., --set "
                "training.clip_norm=1 or --set training.precision=bf16: it goes on from the "
                "newest checkpoint",
            )

    def _term_losses(self, batch: MicroBatch, number: int) -> list[Tensor]:
        with self.accelerator.autocast():
            return term_losses(
                self.model,
                self.loss,
                self.views[number],
                batch.of_view(number).to(self.device),
                self.network.patch_size,
                self._teach,
            )

    def _teach(self, scaled: Tensor, c_BD: Tensor | None) -> Tensor:
        """The averaged decoder's raw output for latents of which it sees every patch."""
        assert self.teacher is not None
        answer: Tensor = self.teacher.module(scaled, c_BD)
        return answer


def _remove(folder: Path) -> None:
    """Rename first, so that a kill half-way leaves no checkpoint that looks whole."""
    doomed = folder.with_name(f".tmp-old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def term_names(view: View) -> list[str]:
    """What the terms of a view are called in a log: "full", "masked", "masked-kept-..."."""
    branch = "full" if view.tokens == "all" else "masked"
    if len(view.terms) == 1:
        return [branch]
    return [f"{branch}-{term.name}" if term.name else branch for term in view.terms]
