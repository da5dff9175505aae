"""`mdt sample`: draw images from a run or from weights."""

from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import Device, Ema, Json
from mdt_cli.cli.output import emit, emit_json, human_seconds
from mdt_cli.cli.progress import Bar, drawn


def sample(
    run_or_weights: Annotated[
        Path, typer.Argument(help="A run, a checkpoint folder or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder for the samples.")],
    seeds: Annotated[
        str, typer.Option(help='One image per seed: "0-63", "1,5,9" or "0-9,20".')
    ] = "0-63",
    classes: Annotated[
        str | None,
        typer.Option(
            help='Indices, names or "all", dealt out by seed: seed k gets entry k modulo their '
            "number.",
            show_default="each seed draws its own",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps.", show_default="sampling.steps")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help="ddpm, ddim, euler, heun or dpm++.", show_default="sampling.solver"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale; 1 is none. The kind of guidance stays the run's.",
            show_default="sampling.guidance",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="png: a file per seed. npz: one array, as evaluators read it.")
    ] = "png",
    grid: Annotated[
        bool, typer.Option("--grid", help="Also write grid.png, a row per class asked for.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images drawn together.")] = 64,
    ema: Ema = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="Another place (Hugging Face id or folder) of the autoencoder's weights.",
            show_default="where the cache found it",
        ),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Draw images; the same command again goes on where it stopped.

    Example: mdt sample run samples --seeds 0-99 --classes all --grid
    """
    from mdt_cli.services.events import SamplesDone
    from mdt_cli.services.sample import SampleRequest
    from mdt_cli.services.sample import sample as service

    request = SampleRequest(
        weights=run_or_weights,
        out=out,
        seeds=seeds,
        classes=classes,
        steps=steps,
        solver=solver,
        guidance=guidance,
        format=format,
        grid=grid,
        batch_size=batch_size,
        ema=ema,
        codec=codec,
        device=device,
    )
    done = None
    with Bar("sampling", "images") as bar:
        for event in drawn(service(request), bar):
            if isinstance(event, SamplesDone):
                done = event
    if done is None:
        return
    if json:
        emit_json(
            {
                "path": done.path,
                "grid": done.grid,
                "count": done.count,
                "drawn": done.drawn,
                "seconds": round(done.seconds, 3),
                "weights_path": done.weights,
                **done.settings,
            }
        )
        return
    where = "were there" if done.processes == 1 else "were there or drawn by other processes"
    kept = f", {done.count - done.drawn} {where}" if done.drawn < done.count else ""
    rate = f"{done.drawn} drawn in {human_seconds(done.seconds)}" if done.drawn else "none drawn"
    emit(f"{done.path}: {done.count} images, {rate}{kept}")
    sampler, guide = done.settings["sampler"], done.settings["guidance"]
    scale = "none" if guide["kind"] == "none" else f"{guide['kind']} {guide['scale']:g}"
    emit(
        f"weights {done.weights} (step {done.step}, {_average(done.ema)}), "
        f"{sampler['solver']} {sampler['steps']} steps, guidance {scale}"
    )
    if done.grid:
        emit(done.grid)


def _average(ema: str) -> str:
    return "no average" if ema == "online" else f"average {ema}"
