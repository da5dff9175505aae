"""Where a run computes: its device, its processes, and how the network is laid out over them.

The only module of training that knows Accelerate. Sharding, recomputing and compiling belong here:
the step calls `Placement.model` and does not know what surrounds the network.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from mdt_cli.config.training import TrainingConfig
from mdt_cli.core.optim.adamw import AdamW
from mdt_cli.core.optim.adan import Adan
from mdt_cli.core.optim.gradient_norm import gradient_norm
from mdt_cli.errors import MdtError
from mdt_cli.services.runtime import LONGEST_ALONE, pick_device

# Blocks with a skip, without, and the first with one, in training and in evaluation.
GRAPHS_PER_LENGTH = 6


class Placement:
    """One process's part in a run. `rank` counts the `processes` from 0; rank 0 writes files."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def wrap(self, network: nn.Module, optimizer: AdamW | Adan) -> None:
        """Make `model` and the optimizer of the step from a network that is on the device."""
        self.model, self._optimizer = self._accelerator.prepare(network, optimizer)

    def own_micro_batches(self, training: TrainingConfig) -> range:
        """The micro-batches of every step that this process computes."""
        return range(self.rank, training.num_micro_batches, self.processes)

    def autocast(self) -> AbstractContextManager[None]:
        """The arithmetic of a forward pass, as training.precision says."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Around each pass of a step: gradients travel between processes once, with the last."""
        return nullcontext() if last else self._accelerator.no_sync(self.model)

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, scaled where fp16 needs it."""
        self._accelerator.backward(loss)

    def clip(self, network: nn.Module, largest: float) -> Tensor:
        """Unscale the gradient, shorten it to norm `largest` (0: as it is); its norm before."""
        parameters, largest = list(network.parameters()), largest or math.inf
        if self.device.type != "cpu":
            norm: Tensor = self._accelerator.clip_grad_norm_(parameters, largest)
            return norm
        self._accelerator.unscale_gradients()
        norm = gradient_norm(p.grad for p in parameters if p.grad is not None)
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def step(self, norm: Tensor) -> Tensor:
        """Step the optimizer, which ignores a gradient that is not finite.

        Returns 1. for such a gradient, else 0., on the device: the optimizer decides there, and the
        host does not wait for it.
        """
        bad = (~torch.isfinite(norm)).to(torch.float32)
        if self.scaler is None:
            # A loss scaler sets this itself, and lowers its scale.
            self._optimizer.optimizer.found_inf = bad
        self._optimizer.step()
        return bad

    @property
    def scaler(self) -> "torch.amp.GradScaler | None":
        """The loss scaler of fp16."""
        return self._accelerator.scaler

    def mean(self, value: Tensor) -> float:
        """Over all processes, which call this together."""
        return float(self._accelerator.reduce(value.to(self.device), "mean"))

    def any(self, here: bool) -> bool:
        """Whether `here` holds on any process; all of them call this together."""
        flag = torch.tensor(float(here), device=self.device)
        return float(self._accelerator.reduce(flag, "sum")) > 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, one after the other; each has equally many."""
        gathered: Tensor = self._accelerator.gather(rows.to(self.device))
        return gathered

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    @contextmanager
    def step_memory(self, training: TrainingConfig, begun: bool) -> Iterator[None]:
        """Within, running out of memory is an MdtError that says which micro-batches would fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise too_large(training, self.processes, begun) from error


def place(precision: str, device: str | None) -> Placement:
    """Processes and mixed precision by Accelerate; the device as `pick_device` says.

    MdtError for a GPU by its number: Accelerate chooses among those that it sees.
    """
    if device is not None and device.startswith("cuda:"):
        raise MdtError(
            f"--device {device}: training takes no GPU by its number",
            f"use --device cuda with CUDA_VISIBLE_DEVICES={device.removeprefix('cuda:')} before "
            "the command",
        )
    cpu, tf32 = pick_device(device).type == "cpu", precision == "tf32"
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return Placement(
        Accelerator(
            cpu=cpu,
            mixed_precision="no" if tf32 else precision,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_ALONE)],
        )
    )


def compile_blocks(blocks: Iterable[nn.Module], num_lengths: int) -> None:
    """Compile each block for `num_lengths` numbers of tokens, so that none runs uncompiled."""
    limits = torch._dynamo.config
    graphs = GRAPHS_PER_LENGTH * num_lengths
    limits.recompile_limit = max(limits.recompile_limit, graphs)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, graphs)
    for block in blocks:
        block.compile(dynamic=False)


def check_shares(training: TrainingConfig, processes: int, begun: bool) -> None:
    """MdtError where the micro-batches of a step cannot be divided evenly among the processes."""
    if training.num_micro_batches % processes == 0:
        return
    raise MdtError(
        f"{training.num_micro_batches} micro-batches cannot be divided evenly among "
        f"{processes} processes",
        "their number is fixed for the lifetime of a run: resume with a number of processes that "
        f"divides {training.num_micro_batches}"
        if begun
        else even_shares(training, processes),
    )


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


def too_large(training: TrainingConfig, processes: int, begun: bool) -> MdtError:
    """The step does not fit; the sizes that would are those that divide the batch evenly."""
    size = training.batch_size // training.num_micro_batches
    if begun:
        return MdtError(
            f"out of memory with micro-batches of {size} images. Their size is fixed for the "
            "lifetime of a run",
            "free GPU memory or use a larger GPU and rerun the command to resume, or start a new "
            "run with a smaller training.micro_batch_size",
        )
    smaller = [n for n in range(1, size) if training.batch_size % (n * processes) == 0]
    return MdtError(
        f"out of memory with micro-batches of {size} images",
        f"use --set training.micro_batch_size={smaller[-1]}: the same batch in more parts (with "
        "--fresh twice in the same folder)"
        if smaller
        else "choose a smaller model, another precision, or a GPU with more memory",
    )
