"""What `mdt inspect` answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError


@dataclass(frozen=True)
class Inspected:
    """`facts` is JSON; `config` is the resolved configuration as TOML, where there is one."""

    path: Path
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None


def unknown(path: Path) -> MdtError:
    """The error for a path that is no artifact and holds no images."""
    return MdtError(
        f"cannot recognise {path}",
        "expected a latent cache, run, checkpoint, weights file, sample folder, report, exported "
        "model, configuration or images",
    )
