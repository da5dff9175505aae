"""`mdt pretrain`: train from fresh weights."""

from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import Device, DryRun, Json, Preset, Set

Cache = Annotated[Path, typer.Argument(help="Latent cache made by mdt encode-latents.")]
Run = Annotated[
    Path, typer.Argument(help="Run folder. Created if missing; an existing run is resumed.")
]
Fresh = Annotated[
    int,
    typer.Option(
        "--fresh",
        count=True,
        help="Start over. An existing run is deleted only if this is given twice.",
    ),
]


def pretrain(
    cache: Cache,
    run: Run,
    preset: Preset = None,
    assign: Set = None,
    dry_run: DryRun = False,
    fresh: Fresh = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train a masked diffusion transformer on a latent cache.

    Rerun the same command to resume from the newest checkpoint; without -p, a run keeps its own
    settings. Example:

    mdt pretrain cache runs/first -p mdtv2 -p size/s --set training.steps=50000
    """
    from mdt_cli.cli.training import follow, show_plan
    from mdt_cli.config.write import to_toml
    from mdt_cli.services.train.settings import pretrain_config

    loaded = pretrain_config(run, preset or [], assign or [], fresh)
    if dry_run:
        from mdt_cli.services.train.cost import plan

        show_plan(plan(cache, loaded.config), to_toml(loaded), json)
        return
    from mdt_cli.services.train.start import pretrain as service

    follow(service(cache, run, loaded, fresh, device), json)
