"""Pickles are refused; for the one kind that the field shares there is a way around them."""

import json
import shlex
from pathlib import Path

from mdt_cli.errors import MdtError


def refused_pickle(path: Path) -> MdtError:
    """The error for a pickle, with the commands that turn EDM2's statistics into npz files."""
    return MdtError(
        f"{path} is a pickle, which may run any code when it is opened",
        "if you trust its maker, turn an entry of it into an npz: of EDM2's files that of "
        f"Inception\n  {conversion(path, 'fid')}\n  or, for --extractor dinov2, that of "
        f"DINOv2\n  {conversion(path, 'fd_dinov2')}",
    )


def conversion(path: Path, entry: str) -> str:
    """A command line that turns an entry of EDM2's pickle of statistics into a file as ours.

    Run by those who trust the pickle; a dictionary of mu and sigma alone passes as its own `fid`.
    """
    network, resize = {
        "fid": ("inception", "legacy_tensorflow"),
        "fd_dinov2": ("dinov2", "clean"),
    }[entry]
    made = path.with_name(f"{path.stem}-{network}.npz")
    # Only double quotes, in strings of JSON, which are Python's too: the shell keeps the single.
    source, target = (json.dumps(str(file), ensure_ascii=False) for file in (path, made))
    chosen = 'p.get("fid", p)' if entry == "fid" else f'p["{entry}"]'
    program = (
        f'import pickle, numpy; p = pickle.load(open({source}, "rb")); e = {chosen}; '
        f'numpy.savez({target}, mu=e["mu"], sigma=e["sigma"], extractor="{network}", '
        f'resize="{resize}", **{{"count": p[k] for k in p if k == "num_images"}})'
    )
    return f"python -c {shlex.quote(program)}"
