"""Signals that wait for a safe moment, and the device and processes the work runs on."""

import gc
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

# Its functions have the default process group as a default argument: where it is imported later, by
# DistributedDataParallel, it refers to the group to the end of Python.
import torch.distributed.nn.functional
from torch import Tensor, nn

from mdt_cli.config.sampling import Precision
from mdt_cli.core.batch import Answer
from mdt_cli.errors import MdtError, Stopped

# What the first process may take for previews, held-out losses and checkpoints of a large network
# while the others wait for it; the default of NCCL, ten minutes, ends runs.
LONGEST_ALONE = timedelta(hours=3)
# Seconds to wait for the process groups to be destroyed; gloo takes milliseconds.
LONGEST_LEAVE = 10


@dataclass
class Stop:
    """`signum` is set once a signal asked for the end, `heard` once all processes know of it."""

    signum: int | None = None
    heard: bool = False
    _hosts: Any = None

    def everywhere(self, processes: int) -> bool:
        """Whether any of the `processes` was asked to stop; all call this together, and agree.

        It travels through host memory: on the GPUs it would queue behind the step, and every step
        would wait for its end.
        """
        self.heard = self.signum is not None
        if processes > 1:
            if self._hosts is None:
                self._hosts = dist.new_group(backend="gloo", timeout=LONGEST_ALONE)
            asked = torch.tensor(float(self.heard))
            dist.all_reduce(asked, group=self._hosts)
            self.heard = float(asked) > 0
        if self.heard and self.signum is None:
            self.signum = signal.SIGTERM
        return self.heard

    def raise_if_asked(self, saved: str) -> None:
        """Stopped, with the sentence `saved`, where this process knows of a signal."""
        if self.signum is not None:
            raise Stopped(self.signum, saved)


@contextmanager
def deferred_signals() -> Iterator[Stop]:
    """Within, SIGINT, SIGTERM and SIGUSR1 only set `Stop.signum`; a second SIGINT stops at once."""
    stop = Stop()

    def note(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None and signum == signal.SIGINT:
            raise Stopped(signum, "The newest finished checkpoint or file is kept.")
        stop.signum = signum

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {name: signal.signal(name, note) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def pick_device(asked: str | None) -> torch.device:
    """The device named: cpu, cuda or cuda:N. None: a GPU if torch sees one, else the CPU.

    MdtError for another name or a GPU that is not there.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", asked):
        here = "use --device cuda, or --device cuda:1 for the second GPU"
        raise MdtError(
            f"no such device: {asked}",
            here if torch.cuda.is_available() else "torch sees no CUDA GPU: use --device cpu",
        )
    device = torch.device(asked)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and not count:
        raise MdtError(f"{asked} was asked for, but torch sees no CUDA GPU", "use --device cpu")
    if device.index is not None and device.index >= count:
        last = f"cuda:{count - 1}"
        raise MdtError(f"{asked} was asked for, but the last GPU is {last}", f"use --device {last}")
    return device


def own_device(asked: str | None) -> torch.device:
    """As `pick_device`; with several GPUs and processes, one each."""
    device = pick_device(asked)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device


def check_precision(precision: str, device: str | None) -> None:
    """MdtError where this machine would be slower, not faster, at the precision asked for."""
    # A CPU knows no TF32 and computes in float32 when asked for it.
    if precision in ("no", "tf32") or pick_device(device).type == "cuda":
        return
    has = torch.cpu.get_capabilities()
    fast = precision == "bf16" and any(has.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16"))
    if not fast:
        raise MdtError(
            f"this CPU has no native {precision} support: training.precision={precision} would be "
            "8-100x slower than float32",
            "use training.precision=no, or train on a GPU",
        )


def make_deterministic(on: bool) -> None:
    """Whether this process computes by algorithms that repeat to the bit; call it before CUDA work.

    On a GPU cuBLAS repeats only with a workspace of fixed size, and attention's backward pass
    splits its keys among blocks unless torch asks it not to. RuntimeError from torch where a part
    has no such algorithm.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on)
    # The filling of fresh memory finds reads of what was never written, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def leave_processes() -> None:
    """Destroy the process groups, if there are any, and wait until their threads have ended.

    To be called once, last, with no reference left to the network that was trained: another group
    cannot be made in this process. An exception on its way out loses the locals of its frames.

    A thread of gloo releases the tensors of a collective after it woke whoever waits for it, and
    needs the interpreter for that. Once Python is ending, it ends a thread that asks for it, here
    within a C++ destructor, which aborts the process: all is done and saved, and the exit code -6.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    # A launcher sends SIGTERM once another process has failed: this one is about to end anyway.
    with deferred_signals():
        # Threads end with the last reference to their group. The network has one, and it is part of
        # reference cycles and in the frames of an exception.
        error = sys.exception()
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        gc.collect()
        # In a thread, because the communicator of a GPU may wait for processes that never answer.
        leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
        leaving.start()
        leaving.join(LONGEST_LEAVE)


def own_cores() -> int:
    """This machine's cores that the job may run on, shared among its processes here; at least 1."""
    # macOS has no affinity: every core is allowed.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def computed(precision: Precision, device: torch.device) -> Precision:
    """What the device computes when asked for `precision`: a CPU has no TF32.

    MdtError where bf16 would be slower than float32.
    """
    if precision == "bf16":
        try:
            check_precision(precision, device.type)
        except MdtError as error:
            raise MdtError(
                "this CPU has no native bf16 support: sampling.precision=bf16 would be 8-100x "
                "slower than float32",
                "use float32, or sample on a GPU",
            ) from error
    return "float32" if precision == "tf32" and device.type == "cpu" else precision


class Autocast(nn.Module):
    """A network under bf16 autocast that answers in float32, so that no solver meets bf16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Answer:
        with torch.autocast(x.device.type, torch.bfloat16):
            answer: Answer = self._network(x, t_B, y_B)
        early = None if answer.early is None else answer.early.float()
        return answer._replace(final=answer.final.float(), early=early)
