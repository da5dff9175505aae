"""A run that has begun goes on under its presets as they were then."""

import json
from dataclasses import replace
from pathlib import Path

from mdt_cli.artifacts.begun_run import has_begun, recorded_sources
from mdt_cli.artifacts.run_folder import CONFIG, read_config
from mdt_cli.config import presets
from mdt_cli.config.load import DEFAULT, Loaded
from mdt_cli.config.run import RunConfig
from mdt_cli.text import shortened

PRESET, SET = "preset ", "--set "


def as_begun(run: Path, loaded: Loaded, fresh: int) -> tuple[Loaded, list[str]]:
    """`loaded` with what its presets said when the run in the folder began.

    A preset that comes with `mdt` may say something else in a later version. Where the same presets
    and the same --set gave a key another value then, that value stays; the second result names such
    keys with it. All other differences are left to `run_folder.check`.
    """
    if fresh >= 2 or not has_begun(run):
        return loaded, []
    before = {key: who for key, who in recorded_sources(run).items() if who != DEFAULT}
    old = read_config(run / CONFIG).model_dump(mode="json")
    new = loaded.config.model_dump(mode="json")
    named = {part for source in before.values() for part in _presets(source)}
    names_now = {part for source in loaded.sources.values() for part in _presets(source)}
    sources, kept = dict(loaded.sources), []
    for table, keys in new.items():
        for key, value in keys.items():
            path = f"{table}.{key}"
            was, then, now = old[table].get(key, value), before.get(path, ""), loaded.source(path)
            by_presets = _presets(then) | _presets(now)
            same = _presets(then) <= names_now and _presets(now) <= named
            if was == value or not by_presets or not same or not _same_words(then, now):
                continue
            keys[key] = was
            kept.append(f"{path}={shortened(json.dumps(was))}")
            for known in [k for k in sources if k == path or k.startswith(f"{path}.")]:
                del sources[known]
            if then:
                sources[path] = then
    if not kept:
        return loaded, []
    return replace(loaded, config=RunConfig.model_validate(new), sources=sources), kept


def _presets(source: str) -> set[str]:
    parts = source.split(", ")
    return {part for part in parts if part.startswith(PRESET)}


def _same_words(then: str, now: str) -> bool:
    """Whether no --set and no preset of the user's own made the difference."""
    own = [
        {
            part
            for part in source.split(", ")
            if part.startswith(SET)
            or (part.startswith(PRESET) and part.removeprefix(PRESET) not in presets.names())
        }
        for source in (then, now)
    ]
    return own[0] == own[1]


def kept_keys(kept: list[str]) -> str:
    """One sentence for a user whose presets have changed since the run began."""
    return f"the presets have changed since this run began; it keeps {', '.join(kept)}"
