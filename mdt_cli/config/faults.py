"""What is wrong with a configuration, in words of ours, and what to type instead."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mdt_cli.config.keys import annotation_of, dotted, kind_of, known_keys, tables, variants
from mdt_cli.config.suggestions import (
    NO_KEY,
    chosen_kind,
    kinds_with,
    leaf_keys,
    meant_keys,
    nearest_value,
)
from mdt_cli.text import shortened

BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
# How the types of faults begin, and what is expected there.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list, such as [0.9, 0.99]",
    "list": "a list, such as [0.9, 0.99]",
    "path": "a path",
}
SHOWN_KEYS = 8


def wording(fault: ErrorDetails) -> str:
    """What is wrong with a value, without its key."""
    kind, context = fault["type"], fault.get("ctx", {})
    given = shortened(_as_toml(fault["input"]))
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        limit = context[bound]
        shown = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
        return f"must be {words} {shown}, not {given}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "finite_number":
        return f"must be finite, not {given}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        count = context["min_length" if least else "max_length"]
        return f"must have at {'least' if least else 'most'} {count} entries, not {given}"
    if kind == "literal_error":
        wanted = str(context["expected"]).replace("'", '"')
        names = [word for word in wanted.split('"')[1::2] if word]
        near = nearest_value(str(fault["input"]), names)
        return f"must be {wanted}, not {given}" + (f"; did you mean {near}?" if near else "")
    start = next((start for start in EXPECTED if kind.startswith(start)), None)
    if start is not None:
        return f"must be {EXPECTED[start]}, not {given}"
    if kind == "extra_forbidden":
        return "no such key"
    return f"has a value that does not fit: {given}"


def fault_lines(error: ValidationError) -> str:
    """A line for every fault of a configuration that a file holds."""
    faults = error.errors(include_url=False)
    lines = [f"  {dotted(fault['loc']) or 'configuration'}: {wording(fault)}" for fault in faults]
    return "\n".join(dict.fromkeys(lines))


def described(
    error: ValidationError,
    tree: Mapping[str, Any],
    sources: Mapping[str, str],
    setter: Callable[[str], str],
) -> list[str]:
    """A line for every fault: the key, what is wrong, the nearest valid key and who set it."""
    found: dict[str, list[str]] = {}
    faults = error.errors(include_url=False)
    places = [fault["loc"] for fault in faults]
    for fault in faults:
        inside = any(p != fault["loc"] and p[: len(fault["loc"])] == fault["loc"] for p in places)
        if fault["type"] == "too_short" and inside:
            continue  # pydantic counts only the valid items; the invalid ones are reported anyway
        for key, problem in _problems(fault, tree):
            found.setdefault(key, []).append(problem)
    lines = []
    for key, problems in found.items():
        # A value that may be of two types has a fault for each of them.
        problem = "; or ".join(dict.fromkeys(problems))
        # A fault between several keys names them; whoever set one of those can mend it.
        words = set(problem.replace(",", " ").replace(":", " ").split())
        between = {
            who
            for known, who in sources.items()
            if known in words or known.removeprefix(f"{key}.") in words
        }
        if problem.startswith("no such key"):
            between = set()
        setters = setter(key)
        if between and key in ("", *tree):
            setters = ", ".join(sorted(between))
        lines.append(f"  {key + ': ' if key else ''}{problem}  (set by {setters})")
    return lines


def _problems(fault: ErrorDetails, tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    key, kind = dotted(fault["loc"]), fault["type"]
    if kind == "extra_forbidden":
        return [(below, _unknown(below, tree)) for below in leaf_keys(key, fault["input"])]
    if kind == "union_tag_invalid":
        wanted = fault["ctx"]["expected_tags"].replace("'", '"')
        given = str(fault["ctx"]["tag"])
        near = nearest_value(given, wanted.replace('"', "").split(", "))
        meant = f"; did you mean {near}?" if near else ""
        return [(f"{key}.kind", f'no such kind "{shortened(given)}"; there are {wanted}{meant}')]
    if tables(annotation_of(key)) and kind != "value_error":
        return [(key, _no_table(key, fault["input"]))]
    return [(key, wording(fault))]


def _no_table(key: str, value: object) -> str:
    given = shortened(_as_toml(value))
    kinds = [kind_of(table) for table in variants(annotation_of(key))]
    if kinds:
        return f"is a table with a kind ({', '.join(kinds)}), not {given}"
    keys = [name for name in known_keys() if name.rpartition(".")[0] == key]
    shown = ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
    return f"is a table with the keys {shown}, not {given}"


def _unknown(key: str, tree: Mapping[str, Any]) -> str:
    last = key.rpartition(".")[2]
    if last in NO_KEY:
        return f"no such key; {NO_KEY[last]}"
    kinds = kinds_with(key, tree)
    if kinds:
        table = key.rpartition(".")[0]
        return (
            f"no such key with {table}.kind {chosen_kind(table, tree)}; "
            f"{', '.join(kinds)} {'has' if len(kinds) == 1 else 'have'} it"
        )
    meant = meant_keys(key, tree)
    if meant:
        return f"no such key; did you mean {' or '.join(meant[:3])}?"
    table = key.rpartition(".")[0]
    beside = [name for name in known_keys(tree) if name.rpartition(".")[0] == table]
    if not beside:
        return "no such key; `mdt presets dit` shows keys and their values"
    return f"no such key; there are {', '.join(name.rpartition('.')[2] for name in beside)}"


def _as_toml(value: object) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)
