"""The one reader of TOML: presets, configurations of runs and values of --set.

Refused are texts beyond `MAX_BYTES`, keys of more than `MAX_PARTS` parts, values nested deeper than
`MAX_DEPTH`, whole numbers of more than `MAX_DIGITS` digits, and other encodings than UTF-8.
docs/limits.md lists the limits.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from mdt_cli.text import decode_text, read_limited

MAX_BYTES, MAX_PARTS, MAX_DEPTH, MAX_DIGITS = 1 << 20, 32, 32, 20
_LONG_NUMBER = f"it has a whole number of more than {MAX_DIGITS} digits"
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"""(?<![\w."'-])(?:{_PART}){{{MAX_PARTS}}}""")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. ValueError says what is wrong with it."""
    # The parser keeps a table per part of a key and for each of its beginnings.
    if _LONG_KEY.search(text):
        raise ValueError(f"it has a key of more than {MAX_PARTS} parts")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        # Of int(), which refuses thousands of digits.
        raise ValueError(_LONG_NUMBER) from error
    _check_values(tables)
    return tables


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The tables of a TOML file, and its text. ValueError for its content; OSError."""
    text = decode_text(read_limited(path, MAX_BYTES))
    return parse_toml(text), text


def _check_values(tables: dict[str, Any]) -> None:
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        inner = [
            entry
            for value in level
            for entry in (value.values() if isinstance(value, dict) else value)
            if isinstance(entry, dict | list | int)
        ]
        if any(isinstance(entry, int) and abs(entry) >= 10**MAX_DIGITS for entry in inner):
            raise ValueError(_LONG_NUMBER)
        level = [entry for entry in inner if not isinstance(entry, int)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
