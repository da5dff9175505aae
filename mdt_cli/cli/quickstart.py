"""`mdt quickstart`: all stages on the embedded digits."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from mdt_cli.cli.options import Device, Json
from mdt_cli.cli.output import emit, emit_json, human_seconds, table, talk
from mdt_cli.cli.progress import Bar, shown_events
from mdt_cli.cli.training import training_display

Out = Annotated[Path, typer.Argument(help="Folder for everything that the stages write.")]

UNITS = {"pretrain": "steps", "finetune": "steps"}


def quickstart(
    out: Out = Path("mdt-quickstart"), device: Device = None, json: Json = False
) -> None:
    """Train, sample, score and export a small model of handwritten digits, on a laptop CPU.

    It runs the six stages that you would run on your own images and prints their commands.
    """
    from mdt_cli.services.events import QuickstartDone, StageStarted
    from mdt_cli.services.quickstart import quickstart as service

    commands: list[str] = []
    with ExitStack() as bars:
        for event in service(out, device):
            if isinstance(event, StageStarted):
                bars.close()
                commands.append(event.command)
                talk("")
                talk(f"[{len(commands)}/6] {event.command}")
                bar = bars.enter_context(Bar(event.stage, UNITS.get(event.stage, "images")))
                tell = training_display(bar)
            elif isinstance(event, QuickstartDone):
                done = event
            else:
                for rest in shown_events(iter((event,)), bar):
                    tell(rest)
    if json:
        emit_json(
            {
                "stages": [vars(stage) for stage in done.stages],
                "scores": dict(done.scores),
                "commands": commands,
            }
        )
        return
    _summary(done, commands)


def _summary(done: Any, commands: list[str]) -> None:
    rows = []
    for stage in done.stages:
        rate = f"{stage.images / stage.seconds:,.0f}" if stage.images and stage.seconds else ""
        rows.append((stage.stage, human_seconds(stage.seconds), rate, stage.path))
    total = sum(stage.seconds for stage in done.stages)
    rows.append(("all", human_seconds(total), "", ""))
    table("Quickstart", ("stage", "time", "images/s", "result"), rows)
    if done.scores:
        shown = [(name, f"{value:.4g}") for name, value in done.scores.items()]
        table("Scores of the samples against the digits", ("metric", "value"), shown)
    emit("To run the same steps on your own images, replace the zip:")
    for command in commands:
        emit(f"  {command}")
