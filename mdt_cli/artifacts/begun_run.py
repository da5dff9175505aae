"""A run that has begun is its own base: its settings, and what a later start changes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdt_cli.artifacts.run_folder import CONFIG, MAY_CHANGE, config_text, read_config
from mdt_cli.config.base import flat
from mdt_cli.config.load import DEFAULT, Loaded, load_config
from mdt_cli.config.run import RunConfig

PRESET = "preset "
ABSENT = object()


def has_begun(run: Path) -> bool:
    """Whether the folder holds a run, with or without a checkpoint."""
    return (run / CONFIG).is_file()


def settings_of(run: Path, presets: Sequence[str], assignments: Sequence[str]) -> Loaded:
    """The settings that the run in the folder has, then presets, then assignments."""
    begun = read_config(run / CONFIG).model_dump(mode="json")
    who = f"{run} as it began"
    loaded = load_config(presets, assignments, base=begun, base_source=who)
    recorded = _recorded_sources(run)
    sources = {}
    for key, source in loaded.sources.items():
        found = _source(key, recorded, who)
        if source != who:
            sources[key] = source
        elif found != DEFAULT:
            sources[key] = found
    return replace(loaded, sources=sources)


def steering_changes(run: Path, loaded: Loaded) -> list[str]:
    """Keys that steer a run and have other values in this start, as "key: old -> new (who)"."""
    old = flat(read_config(run / CONFIG).model_dump(mode="json"))
    new = flat(loaded.config.model_dump(mode="json"))
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')} "
        f"(set by {loaded.source(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and any(key == k or key.startswith(k + ".") for k in MAY_CHANGE)
    ]


def as_begun(run: Path, loaded: Loaded, fresh: int) -> tuple[Loaded, list[str]]:
    """`loaded` with what the run in the folder began with, and these keys as "key: value".

    A key keeps the value of the run where nobody asked for another one: both values come from the
    same preset of this program or from a default, so only the version can have changed them.
    Where other keys differ too, it is another run, and nothing is kept.
    """
    if fresh or not has_begun(run):
        return loaded, []
    recorded = _recorded_sources(run)
    before = read_config(run / CONFIG).model_dump(mode="json")
    old, new = flat(before), flat(loaded.config.model_dump(mode="json"))
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]
    kept = [key for key in changed if _by_version(key, recorded, loaded)]
    others = [key for key in changed if key not in kept and not _may_change(key)]
    if not kept or [key for key in others if not loaded.source(key).startswith("--set ")]:
        return loaded, []
    merged = {key: value for key, value in new.items() if key not in kept}
    merged |= {key: old[key] for key in kept if key in old}
    try:
        config = RunConfig.model_validate(_nested(merged))
    except ValidationError:
        return loaded, []
    sources = {key: who for key, who in loaded.sources.items() if key not in kept}
    for key in kept:
        who = _source(key, recorded)
        if who != DEFAULT:
            sources[key] = who
    said = [f"{key}: {old[key]}" for key in kept if key in old]
    return replace(loaded, config=config, sources=sources), said


def _by_version(key: str, recorded: Mapping[str, str], loaded: Loaded) -> bool:
    """Whether the same command would have given the run's value in the version it began with."""
    then, now = _source(key, recorded), loaded.source(key)
    if any(f"--set {part}=" in then for part in _and_tables(key)):
        return False
    if now == DEFAULT:
        return then == DEFAULT or (_packaged(then) and then in loaded.sources.values())
    if not _packaged(now) or not any(now in who.split(", ") for who in recorded.values()):
        return False
    return not then.startswith(PRESET) or now in then.split(", ")


def _packaged(source: str) -> bool:
    """Whether this is a preset of the program: its text changes with the version alone."""
    return source.startswith(PRESET) and not source.endswith(".toml")


def _may_change(key: str) -> bool:
    return any(key == k or key.startswith(f"{k}.") for k in (*MAY_CHANGE, "training.deterministic"))


def _source(key: str, recorded: Mapping[str, str], otherwise: str = DEFAULT) -> str:
    return next((recorded[part] for part in _and_tables(key) if part in recorded), otherwise)


def _recorded_sources(run: Path) -> dict[str, str]:
    """Who set each key, from the comments of the run's configuration."""
    sources: dict[str, str] = {}
    table = ""
    for line in config_text(run).splitlines():
        if line.startswith("["):
            table = line.strip("[] ")
        elif " = " in line and "  # " in line:
            key, source = line.partition(" = ")[0], line.rpartition("  # ")[2]
            sources[f"{table}.{key}"] = source
    return sources


def _and_tables(key: str) -> list[str]:
    """The key and the tables around it, innermost first."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *tables, last = key.split(".")
        below = tree
        for name in tables:
            below = below.setdefault(name, {})
        below[last] = value
    return tree
