"""`mdt finetune`: continue from the weights of an earlier stage."""

from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import Device, DryRun, Ema, Json, Preset, Set
from mdt_cli.cli.pretrain import Cache, Fresh, Run

From = Annotated[
    Path,
    typer.Option("--from", help="Run, checkpoint folder or weights file to start from."),
]


def finetune(
    cache: Cache,
    run: Run,
    source: From,
    preset: Preset = None,
    assign: Set = None,
    ema: Ema = None,
    dry_run: DryRun = False,
    fresh: Fresh = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Continue training from earlier weights, with their configuration as the base.

    Rerun the same command to resume from the newest checkpoint. Example:

    mdt finetune cache runs/last --from runs/first -p unmasked --set training.steps=5000
    """
    from mdt_cli.cli.training import follow, show_plan
    from mdt_cli.config.write import to_toml
    from mdt_cli.services.train.start import finetune as service
    from mdt_cli.services.train.start import starting_config

    begun = None if fresh else run
    loaded = starting_config(source, ema, preset or [], assign or [], begun)
    if dry_run:
        from mdt_cli.services.train.cost import plan

        show_plan(plan(cache, loaded.config), to_toml(loaded), json)
        return
    follow(service(cache, run, source, ema, loaded, fresh, device), json)
