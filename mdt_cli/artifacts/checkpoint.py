"""A checkpoint folder (weights, EMA weights, optimizer, state) and the rotation of folders."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from mdt_cli.artifacts.weights import FORMAT, Header, save_tensors, save_weights
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, sha256_of, write_json
from mdt_cli.json_reader import read_json
from mdt_cli.schema import Beside, Hex, Whole, check_schema
from mdt_cli.text import shortened

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


def ema_file(name: str) -> str:
    """The file of the EMA weights of this name in a checkpoint folder."""
    return f"ema-{name}.safetensors"


class DamagedError(MdtError):
    """A checkpoint does not hold what was written: the one before it may be used instead."""


class StateFields(TypedDict):
    """The shape of `state.json`."""

    format: int
    step: Whole
    images: Whole
    bad_steps: Whole
    scaler: dict[str, float] | None
    run_id: str
    files: dict[Beside, Hex]


@dataclass(frozen=True)
class CheckpointState:
    """All that a run needs besides its weights and the optimizer's tensors."""

    step: int
    images: int
    bad_steps: int
    scaler: Mapping[str, float] | None
    run_id: str


def write_checkpoint(
    folder: Path,
    header: Header,
    weights: Mapping[str, Tensor],
    averages: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Tensor],
    state: CheckpointState,
) -> None:
    """Write a whole checkpoint folder, or nothing."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_weights(temporary / WEIGHTS, weights, header)
        for name, tensors in averages.items():
            averaged = Header(header.config, header.data, header.step, name, header.stage)
            save_weights(temporary / ema_file(name), tensors, averaged)
        save_tensors(temporary / OPTIMIZER, optimizer, {"format": "pt"})
        files = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        write_json(
            temporary / STATE,
            {
                "format": FORMAT,
                "step": state.step,
                "images": state.images,
                "bad_steps": state.bad_steps,
                "scaler": state.scaler,
                "run_id": state.run_id,
                "rng": "streams of (seed, step, micro-batch); nothing to restore",
                "files": files,
            },
        )


def read_state(folder: Path, unread: Collection[str] = ()) -> CheckpointState:
    """Verify the files of a checkpoint against their digests. DamagedError names the first that
    fails; another format, or a disk that does not answer, is an MdtError and says nothing of them.

    Files that will not be read need no digest: the names in `unread` must only be there.
    """
    path = folder / STATE
    try:
        state = read_json(path)
        if isinstance(state, dict) and state.get("format", FORMAT) != FORMAT:
            raise MdtError(
                f"{path} has format {shortened(str(state['format']))}; this mdt reads {FORMAT}",
                "use the mdt version that wrote it",
            )
        check_schema(StateFields, state)
        for name, digest in state["files"].items():
            path = folder / name
            path.stat()
            if name not in unread and sha256_of(path) != digest:
                raise DamagedError(f"{path} is missing or damaged")
        return CheckpointState(
            state["step"], state["images"], state["bad_steps"], state["scaler"], state["run_id"]
        )
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is missing or damaged") from error
    except OSError as error:
        raise MdtError(
            f"cannot read {path}: {error.strerror or error}",
            f"make it readable, or move {folder} away to do without it",
        ) from error


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted((path for path in found if path.is_dir()), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder; -1 where there is none."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else -1


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by "parameter index / name"; learning rates are not state."""
    flat: dict[str, Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            flat[f"{index}/{name}"] = torch.as_tensor(value)
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def prune(folders: Sequence[Path], keep_last: int, keep_every: int) -> list[Path]:
    """Which of these checkpoints, newest first, may go."""
    return [
        folder
        for folder in folders[keep_last:]
        if not (keep_every and step_of(folder) % keep_every == 0)
    ]


def is_saved(folder: Path, step: int) -> bool:
    """Whether this is an intact checkpoint of that step."""
    try:
        return read_state(folder).step == step
    except MdtError:
        return False


def rotate(run: Path, keep_last: int, keep_every: int) -> None:
    """Remove the checkpoints that `prune` lets go.

    Renamed first, so that a kill half-way leaves no checkpoint that seems intact.
    """
    for folder in prune(checkpoints(run), keep_last, keep_every):
        doomed = folder.with_name(f".tmp-old-{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
