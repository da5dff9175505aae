"""`mdt import`: official weights as weights of mdt."""

from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import Json, Set
from mdt_cli.cli.output import emit, emit_json
from mdt_cli.cli.progress import shown_events


def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="The official file: .pt, .pth or .safetensors.")
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder or .safetensors file to write; it must not exist.")
    ],
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            help="dit, mdt, mdtv2, maskdit, uvit or maskdm.",
            show_default="by its layout",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="ema or online, where the file has both.",
            show_default="ema",
        ),
    ] = None,
    decoder_depth: Annotated[
        int | None,
        typer.Option(
            "--decoder-depth",
            help="Number of decoder blocks at the end; MDT v1 files do not store it.",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            help="The autoencoder of its latents: a Hugging Face id or a folder, or pixels.",
            show_default="stabilityai/sd-vae-ft-ema for 4 channels, pixels for 3",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="A file of class names in the order of their indices: a line each, or JSON.",
            show_default="the indices",
        ),
    ] = None,
    assign: Set = None,
    as_json: Json = False,
) -> None:
    """Turn official weights into a model that mdt samples, trains on and exports.

    No code in the file is executed. Example:

    mdt import mdt_xl2_v1_ckpt.pt mdt-xl --family mdt --decoder-depth 2
    """
    from mdt_cli.services.importing.import_checkpoint import ImportRequest
    from mdt_cli.services.importing.import_checkpoint import import_checkpoint as service

    request = ImportRequest(
        source=checkpoint,
        out=out,
        family=family,
        weights=weights,
        decoder_depth=decoder_depth,
        codec=codec,
        classes=classes,
        assignments=tuple(assign or ()),
    )
    done = next(shown_events(service(request)))
    report = done.report
    if as_json:
        emit_json({"path": done.path, "report_path": done.report_path, **report})
        return
    average = "online weights" if done.ema == "online" else f"EMA {done.ema}"
    known = report["source"]["step"] is not None
    step = f"step {done.step:,}" if known else "step not recorded"
    emit(f"{done.path}: {report['family']}, {report['parameters']:,} parameters, {average}, {step}")
    trip, forward = report["round_trip"], report["forward"]
    emit(f"round trip: {trip['tensors']} tensors, {trip['values']:,} values, bit for bit")
    for name, difference in trip["computed"].items():
        emit(f"{name} equals the fixed table: maximum difference {difference:.2g}")
    first = ", ".join(f"{value:.5f}" for value in forward["first"])
    emit(
        f"forward pass: mean {forward['mean']:.6f}, std {forward['std']:.6f}, first {first}, "
        f"last {forward['last']:.5f}"
    )
    sampling = report["sampling"]
    guidance = sampling["guidance"]
    scale = "" if guidance["kind"] == "none" else f" {guidance['scale']:g}"
    emit(
        f"sampling: {sampling['solver']}, {sampling['steps']} steps, guidance "
        f"{guidance['kind']}{scale}, uint8 {sampling['uint8']}"
    )
    emit(f"report: {done.report_path}")
