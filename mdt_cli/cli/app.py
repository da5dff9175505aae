"""The command table, and the only place that turns an exception into an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from mdt_cli import __version__
from mdt_cli.cli import (
    encode_latents,
    evaluate,
    export,
    finetune,
    import_checkpoint,
    inspect,
    presets,
    pretrain,
    quickstart,
    sample,
)
from mdt_cli.cli.hints import advice, with_dashes
from mdt_cli.cli.home import with_home
from mdt_cli.cli.output import emit, fail, print_any_name, talk
from mdt_cli.errors import MdtError, Stopped

app = typer.Typer(
    name="mdt",
    epilog="Start here: mdt quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        emit(f"mdt {__version__}")
        raise typer.Exit


@app.callback()
def _mdt(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train, sample, evaluate and export masked diffusion transformers."""


app.command("encode-latents")(encode_latents.encode_latents)
app.command("pretrain")(pretrain.pretrain)
app.command("finetune")(finetune.finetune)
app.command("sample")(sample.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("import")(import_checkpoint.import_checkpoint)
app.command("quickstart")(quickstart.quickstart)
app.command("presets")(presets.presets)
app.command("inspect")(inspect.inspect)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0, 1 (MdtError), 2 (usage), 128 + signal."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    print_any_name()
    words = with_home(with_dashes(arguments))
    found = advice(words)
    if found is not None:
        fail(*found)
        return 2
    try:
        return _exit_code(words)
    finally:
        # Out here no exception is being handled any more, whose frames would hold the network.
        runtime = sys.modules.get("mdt_cli.services.runtime")
        if runtime is not None:
            runtime.leave_processes()


def _exit_code(words: Sequence[str]) -> int:
    try:
        app(words)
    except MdtError as error:
        fail(error.message, error.hint)
        return 1
    except Stopped as stopped:
        name = signal.Signals(stopped.signum).name
        talk(f"stopped by {name}. {stopped.saved}".rstrip())
        return 128 + stopped.signum
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except BrokenPipeError:
        # The reader of our output has closed it (`mdt ... | head`): write no more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
