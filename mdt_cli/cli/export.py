"""`mdt export`: a run or weights as a model that other programs load."""

from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import Ema, Json
from mdt_cli.cli.output import emit, emit_json, human_bytes
from mdt_cli.cli.progress import shown_events


def export(
    run_or_weights: Annotated[
        Path, typer.Argument(help="A run folder, a checkpoint folder or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder or file to write; it must not exist.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="diffusers: a folder that needs no mdt; safetensors: one file for mdt; "
            "diffusers-dit: diffusers' own DiT, for a plain DiT; torch-export: a .pt2 program; "
            "onnx: a folder with model.onnx.",
        ),
    ] = "diffusers",
    ema: Ema = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            help="The autoencoder's weights: a folder or a Hugging Face id.",
            show_default="as recorded in the weights",
        ),
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="For the model card, such as apache-2.0.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="A report of mdt evaluate, for the model card.",
            show_default="report.json in the run folder",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a trained network and check its outputs against the original.

    Example: mdt export run model --license apache-2.0
    """
    from mdt_cli.services.export.export import ExportRequest
    from mdt_cli.services.export.export import export as service

    request = ExportRequest(
        source=run_or_weights,
        out=out,
        format=format,
        ema=ema,
        codec=codec,
        license=license,
        report=report,
    )
    done = next(shown_events(service(request)))
    if as_json:
        emit_json(
            {
                "path": done.path,
                "format": done.format,
                "parity": done.parity,
                "parameters": done.parameters,
                "step": done.step,
                "ema": done.ema,
                "bytes": done.bytes,
                "files": list(done.files),
            }
        )
        return
    weights = "online weights" if done.ema == "online" else f"EMA {done.ema}"
    emit(
        f"{done.path}: {done.format}, {done.parameters:,} parameters, step {done.step:,} "
        f"({weights}), {human_bytes(done.bytes)}"
    )
    emit(f"parity with the trained network: maximum difference {done.parity:.2g}")
