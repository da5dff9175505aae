"""Streaks of steps without a finite gradient: what is kept, and what to do.

Such a step leaves the weights as they are, so a whole streak speaks of the weights before it.
"""

from pathlib import Path

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.checkpoint import checkpoints, step_of
from mdt_cli.errors import MdtError

CALMER = "rerun the command with a lower --set optimizer.lr=... or --set training.clip_norm=1"


def diverged(run: Path, step: int, streak: int, is_first: bool, by_scaling: bool) -> MdtError:
    """The end of a run at `step`; the first process renames what was saved of the ruined weights.

    `by_scaling`: fp16 may have overflowed on weights that are good, so nothing is renamed.
    """
    kept = checkpoints(run)
    ruined = [] if by_scaling else [f for f in kept if step_of(f) >= step - streak]
    renamed = [run_folder.set_aside(f, "diverged").name for f in ruined if is_first]
    left = next((folder for folder in kept if folder not in ruined), None)
    where = f"from {left.name}" if left is not None else "from its start"
    aside = f", and the checkpoint of the ruined weights is now {renamed[0]}" if renamed else ""
    return MdtError(
        f"the gradient was not finite in {streak} steps in a row, the last of them step {step}; "
        f"nothing was saved of them{aside}",
        "rerun the command with a lower --set optimizer.lr=..., --set training.clip_norm=1 or "
        f"--set training.precision=bf16: it resumes {where}",
    )


def not_saved(run: Path, step: int, streak: int) -> str:
    """Why `step` has no checkpoint, and which one a rerun resumes from."""
    newest = next(iter(checkpoints(run)), None)
    has = f"the newest checkpoint is {newest.name}" if newest else "there is no checkpoint"
    which = "step" if streak == 1 else f"{streak} steps"
    return f"the last {which} had no finite gradient, so step {step} was not saved; {has}"


def ruined_end(run: Path, step: int, streak: int) -> MdtError:
    """A run whose last steps had no finite gradient."""
    return MdtError(f"the run ended at step {step}, but {not_saved(run, step, streak)}", CALMER)
