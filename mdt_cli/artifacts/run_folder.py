"""What lies in a run folder besides checkpoints: configuration, log, metrics."""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.checkpoint import checkpoints
from mdt_cli.config.base import flat
from mdt_cli.config.load import Loaded
from mdt_cli.config.run import RunConfig
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, cannot_write, is_bystander, remove_leftovers
from mdt_cli.json_reader import JsonLines, parse_json
from mdt_cli.text import decode_text, read_limited
from mdt_cli.toml_reader import MAX_BYTES, read_toml

CONFIG, LOG, METRICS = "config.toml", "log.jsonl", "metrics.jsonl"
FOLDERS = ("checkpoints", "samples", "tensorboard", "evaluation")
# Keys that may change between two starts of one run: they steer it and do not define it.
MAY_CHANGE = (
    "training.steps",
    "training.compile",
    "training.max_bad_steps",
    "checkpoint",
    "log",
    "validation",
    "preview",
    "evaluation",
    "sampling",
)
# Keys that --set may change on the way, to save a run that diverges: reported and recorded.
MAY_BE_SET = (
    "optimizer.lr",
    "training.clip_norm",
    "training.precision",
    "training.deterministic",
    "training.schedule_steps",
    "lr_schedule.tail",
)
CHANGED = "# changed after step "
STARTED = "# started from "


def check(run: Path, loaded: Loaded, fresh: int, stage: str) -> list[str]:
    """MdtError where the folder holds something else than this very run. Nothing is written.

    fresh: how often --fresh was given; twice means that whatever run is there may go.
    Returns the keys of `MAY_BE_SET` that are others now, as "key: old -> new".
    """
    config = run / CONFIG
    if run.exists() and not run.is_dir():
        raise MdtError(f"{run} is a file; a run needs a folder")
    if run.is_dir() and not config.is_file() and _has_content(run):
        raise MdtError(f"{run} is not empty and not a run", "choose another folder for the run")
    if not config.is_file() or fresh >= 2:
        return []
    if fresh:
        newest = next(iter(checkpoints(run)), None)
        has = f"its newest checkpoint is {newest.name}" if newest else "it has no checkpoint"
        raise MdtError(
            f"{run} already holds a run; {has}",
            "give --fresh twice to delete it, or choose another folder",
        )
    check_stage(run, stage)
    return _check_same(config, loaded)


def _has_content(run: Path) -> bool:
    """Whether a folder holds more than a start that was killed before its configuration leaves."""
    return any(not is_bystander(path.name) for path in run.iterdir())


def sweep(run: Path) -> None:
    """Remove what killed commands left half-written."""
    for folder in (run, *(run / name for name in FOLDERS)):
        remove_leftovers(folder)


def check_stage(run: Path, stage: str) -> None:
    """MdtError if the run in the folder is of another stage."""
    has = config_text(run).partition("\n")[0].removeprefix("# ")
    if has != stage:
        raise MdtError(f"{run} holds a {has} run, not a {stage} run", "choose another folder")


def started_from(run: Path) -> Path | None:
    """The weights that a finetune run began with; None where the folder does not record it."""
    if not (run / CONFIG).is_file():
        return None
    lines = config_text(run).splitlines()
    found = (line.removeprefix(STARTED) for line in lines if line.startswith(STARTED))
    name = next(found, None)
    return None if name is None else Path(parse_json(name))


def write(
    run: Path,
    loaded: Loaded,
    stage: str,
    fresh: int,
    step: int = 0,
    changed: Sequence[str] = (),
    source: Path | None = None,
) -> None:
    """Write the configuration; with --fresh twice, first remove the run that is there.

    What `changed` after `step` stands above it as a comment, as do the changes before, and the
    weights in `source` that a run started from.
    """
    if fresh >= 2:
        # The configuration stays until the new one replaces it: killed in between, it is a run.
        for name in (LOG, METRICS):
            (run / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(run / name, ignore_errors=True)
    before = config_text(run) if (run / CONFIG).is_file() and fresh < 2 else ""
    lines = [line for line in before.splitlines() if line.startswith((STARTED, CHANGED))]
    if source is not None and not before:
        lines = [STARTED + json.dumps(str(source.resolve()))]
    lines += [f"{CHANGED}{step}: {change}" for change in changed]
    with atomic_path(run / CONFIG) as temporary:
        text = "\n".join([f"# {stage}", *lines, to_toml(loaded)])
        temporary.write_text(text, "utf-8")


def config_text(run: Path) -> str:
    """The configuration of a run as it was written, comments included. Raises MdtError."""
    path = run / CONFIG
    try:
        return decode_text(read_limited(path, MAX_BYTES))
    except OSError as error:
        raise MdtError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise MdtError(f"{path} cannot be read: {error}", "choose another folder") from error


def read_config(path: Path) -> RunConfig:
    """What `write` wrote. Raises MdtError."""
    try:
        keys = read_toml(path)[0]
        # Runs of versions without this key.
        keys["data"] = {"split": "random", **keys.get("data", {})}
        return RunConfig.model_validate(keys)
    except ValueError as error:
        raise MdtError(f"{path} cannot be read: {error}", "choose another folder") from error


def _check_same(path: Path, loaded: Loaded) -> list[str]:
    before = read_config(path)
    old, new = flat(before.model_dump(mode="json")), flat(loaded.config.model_dump(mode="json"))
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        # Runs of versions without this key.
        and not (key == "training.deterministic" and old.get(key) == "auto")
        and not any(key == k or key.startswith(k + ".") for k in MAY_CHANGE)
    ]
    asked = [k for k in changed if k in MAY_BE_SET and loaded.source(k).startswith("--set ")]
    differing = [
        f"  {key}: {old.get(key, 'not set')} in the run, {new.get(key, 'not set')} now"
        f"  (set by {loaded.source(key)})"
        for key in changed
        if key not in asked
    ]
    if differing:
        raise MdtError(
            f"{path.parent} holds a run with another configuration:\n" + "\n".join(differing),
            "choose another folder, or leave out -p and --set to resume this run with its own keys",
        )
    return [f"{key}: {old[key]} -> {new[key]}" for key in asked]


def set_aside(checkpoint: Path, why: str) -> Path:
    """Give a checkpoint that is `why` (damaged, diverged) a name that is none; the new path."""
    names = (f"{why}-{checkpoint.name}" + (f"-{k}" if k else "") for k in count())
    aside = next(path for name in names if not (path := checkpoint.with_name(name)).exists())
    try:
        checkpoint.rename(aside)
    except OSError as error:
        raise cannot_write(aside, error) from error
    return aside


def rewind(path: Path, step: int) -> None:
    """Drop the records after `step`: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = [line for line, record in JsonLines(path).with_text() if record.get("step", 0) <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), "utf-8")


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error
