"""Options that several commands share."""

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
Ema = Annotated[
    str | None,
    typer.Option(
        "--ema",
        help='Which EMA weights to read from a run: a decay such as 0.9999, or "online".',
        show_default="the first of ema.decays",
    ),
]
