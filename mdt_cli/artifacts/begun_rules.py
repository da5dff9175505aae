"""The rules that a run began with: what "auto" means in it, and over how many steps it changes."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from mdt_cli.artifacts.begun_run import has_begun
from mdt_cli.artifacts.checkpoint import checkpoints, step_of
from mdt_cli.artifacts.run_folder import CONFIG, read_config
from mdt_cli.config.load import Loaded
from mdt_cli.config.run import RunConfig
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.errors import MdtError

SplitRule = Literal["auto", "stratified", "random"]


def begun_config(run: Path, fresh: int) -> RunConfig | None:
    """The configuration of the run in the folder; None where none has begun or it will go."""
    return read_config(run / CONFIG) if fresh < 2 and has_begun(run) else None


def resolved(loaded: Loaded, begun: RunConfig | None, device_type: str, split: SplitRule) -> Loaded:
    """`loaded` without "auto": as the run began, else by the device and as `split` says."""
    config, sources = loaded.config, dict(loaded.sources)
    deterministic, rule = config.training.deterministic, config.data.split
    if deterministic == "auto":
        deterministic, who = device_type == "cpu", f"auto, on {device_type}"
        if begun is not None and begun.training.deterministic != "auto":
            deterministic, who = begun.training.deterministic, "as the run began"
        sources["training.deterministic"] = who
    if rule == "auto":
        rule = split if begun is None else begun.data.split
        sources["data.split"] = "auto" if begun is None else "as the run began"
    training = config.training.model_copy(update={"deterministic": deterministic})
    data = config.data.model_copy(update={"split": rule})
    config = config.model_copy(update={"training": training, "data": data})
    return replace(loaded, config=config, sources=sources)


def check_schedule(run: Path, loaded: Loaded) -> None:
    """MdtError where another number of steps would bend the schedules of a run on its way."""
    old, new = read_config(run / CONFIG), loaded.config
    before, after, newest = (
        old.schedule_steps,
        new.schedule_steps,
        next(iter(checkpoints(run)), None),
    )
    if before == after or not old.scheduled or newest is None:
        return
    key = "training.schedule_steps"
    if new.training.schedule_steps and loaded.source(key).startswith("--set "):
        return
    step, longer = step_of(newest), new.training.steps > before
    what = " and the ".join(old.scheduled)
    tail = ""
    if longer and "learning rate" in old.scheduled:
        tail = ", then a constant one"
        if not (new.lr_schedule.tail or new.lr_schedule.final):
            tail = " --set lr_schedule.tail=0.1, then a constant one of a tenth"
    raise MdtError(
        f"training.steps {new.training.steps:,}: the {what} of this run depend"
        f"{'s' if len(old.scheduled) == 1 else ''} on the number of steps, which was {before:,} up "
        f"to step {step:,}{_rates(old, before, after, step)}",
        f"keep the schedule with --set {key}={before}{tail}; or accept the new one from here on "
        f"with --set {key}={after}",
    )


def _rates(old: RunConfig, before: int, after: int, step: int) -> str:
    schedule, lr = old.lr_schedule, old.optimizer.lr
    if "learning rate" not in old.scheduled:
        return ""
    now, then = (
        lr
        * lr_factor(
            step, n, schedule.warmup, schedule.kind, schedule.final, schedule.starts_at_zero
        )
        for n in (before, after)
    )
    return f"; its rate would go from {now:.3g} to {then:.3g}"
