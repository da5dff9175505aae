"""`mdt inspect`: what a file or folder is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mdt_cli.cli.options import (
    FileColumn,
    Json,
    LabelBefore,
    LabelBeforeLast,
    LabelColumn,
    Labels,
    Only,
)
from mdt_cli.cli.output import emit, emit_json, human_bytes, table
from mdt_cli.errors import MdtError

SHOWN_ITEMS = 12


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A cache, run, checkpoint, weights file, sample folder, npz, report, model folder "
            "or images."
        ),
    ],
    json: Json = False,
    only: Only = None,
    labels: Labels = None,
    file_column: FileColumn = None,
    label_column: LabelColumn = None,
    label_before: LabelBefore = None,
    label_before_last: LabelBeforeLast = None,
    as_config: Annotated[
        bool, typer.Option("--as-config", help="Print the resolved configuration as TOML.")
    ] = False,
) -> None:
    """Report what PATH is and what it holds.

    Example: mdt inspect run --as-config
    """
    from mdt_cli.services.inspection.inspect import inspect as service
    from mdt_cli.services.reading import reading_of

    found = service(
        path, reading_of(only, labels, file_column, label_column, label_before, label_before_last)
    )
    if as_config:
        if found.config is None:
            raise MdtError(
                f"{path} ({found.kind}) holds no configuration",
                "runs, checkpoints and weights files do",
            )
        emit(found.config.rstrip())
        return
    if json:
        emit_json({"path": str(path), "kind": found.kind, **found.facts})
        return
    table(f"{path}: {found.kind}", ("fact", "value"), _rows(found.facts))


def _rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value and len(value) <= SHOWN_ITEMS:
            yield from _rows(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _shown(key, value)


def _shown(key: str, value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int() if key == "bytes":
            return human_bytes(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case []:
            return "none"
        case dict():
            items = [f"{name}: {inner}" for name, inner in value.items()]
            return _listed(items) if items else "none"
        case list():
            return _listed([str(item) for item in value])
        case _:
            return str(value)


def _listed(items: list[str]) -> str:
    more = f", ... ({len(items)} in all)" if len(items) > SHOWN_ITEMS else ""
    return ", ".join(items[:SHOWN_ITEMS]) + more
