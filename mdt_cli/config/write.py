"""A configuration as TOML in which every line says who set it."""

import json
from collections.abc import Mapping
from typing import Any

from mdt_cli.config.load import DEFAULT, Loaded


def to_toml(loaded: Loaded) -> str:
    """Text that reads back to the same configuration."""
    lines = ["# Resolved configuration: every key, and who set it."]
    for table, keys in loaded.config.model_dump(mode="json").items():
        lines += ["", f"[{table}]"]
        for key, value in keys.items():
            source = loaded.source(f"{table}.{key}")
            if source == DEFAULT and isinstance(value, Mapping):
                inner = [loaded.source(f"{table}.{key}.{name}") for name in value]
                source = next((s for s in inner if s != DEFAULT), DEFAULT)
            lines.append(f"{f'{key} = {_value(value)}':<44}  # {source}".rstrip())
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
