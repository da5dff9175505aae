"""The configuration that a pretrain command asks for; loads torch only for a run that has begun."""

from collections.abc import Sequence
from pathlib import Path

from mdt_cli.config.load import Loaded, load_config
from mdt_cli.errors import MdtError

CONFIG = "config.toml"


def pretrain_config(
    run: Path, presets: Sequence[str], assignments: Sequence[str], fresh: int = 0
) -> Loaded:
    """Presets, then assignments; without presets a run that has begun is its own base.

    MdtError where there is neither.
    """
    begun = not fresh and (run / CONFIG).is_file()
    if begun and not presets:
        from mdt_cli.artifacts.begun_run import settings_of

        return settings_of(run, presets, assignments)
    if not presets and not assignments:
        raise MdtError(
            "no preset was given", "choose one with -p, such as -p mdtv2; `mdt presets` lists them"
        )
    # A run that began with this order of presets goes on with it.
    return load_config(presets, assignments, any_order=begun)
