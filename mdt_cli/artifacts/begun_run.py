"""A run that has begun is its own base: its settings, and what a later start changes of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdt_cli.artifacts.run_folder import CONFIG, MAY_CHANGE, config_text, read_config
from mdt_cli.config.base import flat
from mdt_cli.config.load import DEFAULT, Loaded, load_config


def has_begun(run: Path) -> bool:
    """Whether the folder holds a run, with or without a checkpoint."""
    return (run / CONFIG).is_file()


def settings_of(run: Path, presets: Sequence[str], assignments: Sequence[str]) -> Loaded:
    """The settings that the run in the folder has, then presets, then assignments."""
    begun = read_config(run / CONFIG).model_dump(mode="json")
    who = f"{run} as it began"
    loaded = load_config(presets, assignments, base=begun, base_source=who)
    recorded = recorded_sources(run)
    sources = {}
    for key, source in loaded.sources.items():
        found = next((recorded[part] for part in _and_tables(key) if part in recorded), who)
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


def recorded_sources(run: Path) -> dict[str, str]:
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
