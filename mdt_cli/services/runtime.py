"""Signals that wait for a safe moment, and the device and processes the work runs on."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from accelerate import Accelerator

from mdt_cli.errors import MdtError, Stopped


@dataclass
class Stop:
    """`signum` is set once a signal asked for the end."""

    signum: int | None = None

    def raise_if_asked(self, saved: str) -> None:
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
    """The device named, or a GPU where there is one."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", asked):
        raise MdtError(f"no such device: {asked}", "use cpu, cuda, or cuda:1 for the second GPU")
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
    if precision == "no" or pick_device(device).type == "cuda":
        return
    has = torch.cpu.get_capabilities()
    fast = precision == "bf16" and any(has.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16"))
    if not fast:
        raise MdtError(
            f"training.precision {precision} on this CPU would be 8 to 100 times slower than "
            "float32: it has no instructions for it",
            "leave training.precision at no, or train on a GPU",
        )


def make_accelerator(precision: str, device: str | None) -> Accelerator:
    """Processes and mixed precision by Accelerate; the device as `pick_device` says.

    MdtError for a GPU by its number: Accelerate chooses among those that it sees.
    """
    if device is not None and device.startswith("cuda:"):
        raise MdtError(
            f"--device {device}: training takes no GPU by its number",
            f"use --device cuda with CUDA_VISIBLE_DEVICES={device.removeprefix('cuda:')} before "
            "the command",
        )
    return Accelerator(cpu=pick_device(device).type == "cpu", mixed_precision=precision)
