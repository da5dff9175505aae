"""What a run began under, where a preset or a default has changed with the version since then."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdt_cli.artifacts.run_folder import CONFIG, MAY_CHANGE, config_text, read_config
from mdt_cli.config.base import flat
from mdt_cli.config.load import DEFAULT, Loaded
from mdt_cli.config.run import RunConfig

PRESET = "preset "
ABSENT = object()
# A line of `config.toml` as config/write.py writes it: key, value, who set it.
_LINE = re.compile(r"(?:\[(?P<table>\w+)\]|(?P<key>\w+) = .*?  # (?P<source>.*))")


def as_begun(run: Path, loaded: Loaded, fresh: int) -> tuple[Loaded, list[str]]:
    """`loaded` with what the run in the folder began with, and these keys as "key: value".

    A key keeps the value of the run where nobody asked for another one: both values come from the
    same preset of this program or from a default, so only the version can have changed them.
    Where other keys differ too, it is another run, and nothing is kept.
    """
    if fresh or not (run / CONFIG).is_file():
        return loaded, []
    recorded = _recorded_sources(config_text(run))
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
    return Loaded(config, sources), said


def _by_version(key: str, recorded: Mapping[str, str], loaded: Loaded) -> bool:
    """Whether the same command would have given the run's value in the version it began with."""
    then, now = _source(key, recorded), loaded.source(key)
    if any(f"--set {part}=" in then for part in _upwards(key)):
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


def _recorded_sources(text: str) -> dict[str, str]:
    """Who set each key of each table, as the file records it."""
    table, sources = "", {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is not None and found["table"]:
            table = found["table"]
        elif found is not None:
            sources[f"{table}.{found['key']}"] = found["source"].strip()
    return sources


def _source(key: str, recorded: Mapping[str, str]) -> str:
    return next((recorded[part] for part in _upwards(key) if part in recorded), DEFAULT)


def _upwards(key: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
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
