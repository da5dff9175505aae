"""Which of the official layouts a file has, by its name on the command line or by itself."""

from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.services.importing.container import unpack
from mdt_cli.services.importing.families import FAMILIES, Family, has_layout
from mdt_cli.text import nearest

SHOWN = 3


def family_named(name: str) -> Family:
    """The family of --family; MdtError for a name that is none."""
    if name not in FAMILIES:
        near = nearest(name, FAMILIES)
        meant = f"; did you mean {near}?" if near else ""
        raise MdtError(f"--family: no {name}{meant}", f"there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(held: object, source: Path, weights: str | None) -> Family:
    """The family whose layout a file has. MdtError where it has none, or several."""
    contents = unpack(held, source, weights, "")
    found = [name for name, family in FAMILIES.items() if has_layout(family, contents.tensors)]
    if not found:
        shown = ", ".join(list(contents.tensors)[:SHOWN])
        raise MdtError(
            f"{source} has none of the layouts that mdt knows: it begins with {shown}",
            f"known are the official weights of {', '.join(f.title for f in FAMILIES.values())}, "
            "with their names unchanged",
        )
    return FAMILIES[found[0]]
