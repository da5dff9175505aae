"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        "-p",
        help="A preset by name or path; several compose left to right.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one key, after all presets; the value is TOML. Repeatable.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Print the resolved configuration and its cost."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu or cuda; default: a GPU where there is one."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="PATTERN",
        help="Read only images whose path in the set matches, as 'train/*' or '*.jpg' do; "
        "'!PATTERN' leaves out. Repeatable.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="A list of files and classes: CSV, TSV, JSON, JSON lines, columns of text.",
        show_default=False,
    ),
]
FileColumn = Annotated[
    str | None,
    typer.Option(
        "--file-column",
        help="The column of file names, by name or number; in parquet that of the images.",
        show_default="found by its content",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="The column, JSON key or file ending that holds the class.",
        show_default="label, class, cls, ...",
    ),
]
LabelBefore = Annotated[
    str | None,
    typer.Option(
        "--label-before",
        metavar="SEPARATOR",
        help="The class is the part of a file name before the first SEPARATOR.",
        show_default=False,
    ),
]
LabelBeforeLast = Annotated[
    str | None,
    typer.Option(
        "--label-before-last",
        metavar="SEPARATOR",
        help="The class is the part of a file name before the last SEPARATOR.",
        show_default=False,
    ),
]
Ema = Annotated[
    str | None,
    typer.Option(
        "--ema",
        help='Which EMA weights to read from a run: a decay such as 0.9999, or "online".',
        show_default="the first of ema.decays",
    ),
]
