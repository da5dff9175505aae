"""`mdt sample`: generate images from a run or from weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mdt_cli.cli.options import Device, Ema, Json, Only
from mdt_cli.cli.output import emit, emit_json, human_seconds
from mdt_cli.cli.progress import Bar, shown_events
from mdt_cli.errors import MdtError

SEEDS, RATIO = "0-63", 0.75


def sample(
    run_or_weights: Annotated[
        Path, typer.Argument(help="A run, a checkpoint folder or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder for the samples.")],
    seeds: Annotated[
        str | None,
        typer.Option(help='One image per seed: "0-63", "1,5,9" or "0-9,20".', show_default=SEEDS),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help='Class indices, names or "all". Seed k uses entry k mod N.',
            show_default="sampled by each seed",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps.", show_default="sampling.steps")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddpm, ddim, euler, heun, dpm++ or dpm++3s.", show_default="sampling.solver"
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale; 1 is none. The kind of guidance stays the run's.",
            show_default="sampling.guidance",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Arithmetic on a GPU: float32, tf32 or bf16.", show_default="sampling.precision"
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="png: a file per seed. npz: one array, as evaluators read it.")
    ] = "png",
    grid: Annotated[
        bool, typer.Option("--grid", help="Also write grid.png, a row per class asked for.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images generated per batch.")] = 64,
    reconstruct: Annotated[
        Path | None,
        typer.Option(
            help="For runs that learned to restore images (-p lmd): hide patches of these images "
            "(folder, archive, image or latent cache) and write original | masked | restored. "
            "Seed k hides patches of image k.",
        ),
    ] = None,
    only: Only = None,
    mask_ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of the patches that --reconstruct hides.", show_default=str(RATIO)
        ),
    ] = None,
    ema: Ema = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="The autoencoder's weights: a Hugging Face id or a folder.",
            show_default="as recorded in the cache",
        ),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Generate images. Rerun the same command to resume.

    Example: mdt sample run samples --seeds 0-99 --classes all --grid

    mdt sample lmd-run strips --reconstruct images --mask-ratio 0.75
    """
    if reconstruct is not None:
        given = {
            "--classes": classes,
            "--steps": steps,
            "--solver": solver,
            "--guidance": guidance,
            "--precision": precision,
        }
        _check_restoring([name for name, value in given.items() if value is not None], format)
        from mdt_cli.services.sample.reconstruct import ReconstructRequest
        from mdt_cli.services.sample.reconstruct import reconstruct as restore

        ratio = RATIO if mask_ratio is None else mask_ratio
        paths = (run_or_weights, out, reconstruct)
        chosen = tuple(only or ())
        request = ReconstructRequest(*paths, ratio, seeds, batch_size, ema, codec, device, chosen)
        _follow(restore(request), json)
        return
    for option, unused in (("--mask-ratio", mask_ratio is None), ("--only", only is None)):
        if not unused:
            hint = "leave it out to generate images"
            raise MdtError(f"{option} needs --reconstruct IMAGES", hint)
    from mdt_cli.services.sample.sample import SampleRequest
    from mdt_cli.services.sample.sample import sample as service

    _follow(
        service(
            SampleRequest(
                weights=run_or_weights,
                out=out,
                seeds=SEEDS if seeds is None else seeds,
                classes=classes,
                steps=steps,
                solver=solver,
                guidance=guidance,
                precision=precision,
                format=format,
                grid=grid,
                batch_size=batch_size,
                ema=ema,
                codec=codec,
                device=device,
            )
        ),
        json,
    )


def _check_restoring(given: list[str], format: str) -> None:
    """MdtError for options that have no meaning beside --reconstruct."""
    given = given + ([] if format == "png" else ["--format"])
    if given:
        raise MdtError(
            f"{', '.join(given)} cannot be combined with --reconstruct, which generates no images",
            f"leave out {', '.join(given)}",
        )


def _follow(events: Iterator[Any], as_json: bool) -> None:
    """Show the events; the first process prints the summary."""
    from mdt_cli.services.events import SamplesDone

    done = None
    with Bar("sampling", "images") as bar:
        for event in shown_events(events, bar):
            if isinstance(event, SamplesDone):
                done = event
    if done is None:
        return
    if as_json:
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
    where = "existed" if done.processes == 1 else "existed or were generated by other processes"
    kept = f", {done.count - done.drawn} {where}" if done.drawn < done.count else ""
    took = human_seconds(done.seconds)
    rate = f"{done.drawn} generated in {took}" if done.drawn else "none generated"
    emit(f"{done.path}: {done.count} images, {rate}{kept}")
    average = "online weights" if done.ema == "online" else f"EMA {done.ema}"
    emit(f"weights {done.weights} (step {done.step}, {average}), {_how(done.settings)}")
    if done.grid:
        emit(done.grid)


def _how(settings: Mapping[str, Any]) -> str:
    if "reconstruct" in settings:
        how = settings["reconstruct"]
        return f"{how['hidden']} of {how['patches']} patches hidden and restored"
    sampler, guide = settings["sampler"], settings["guidance"]
    scale = "none" if guide["kind"] == "none" else f"{guide['kind']} {guide['scale']:g}"
    return f"{sampler['solver']} {sampler['steps']} steps, guidance {scale}"
