"""Find a preset by name or path, wherever `mdt` runs from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.text import nearest
from mdt_cli.toml_reader import read_toml

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the presets inside the package; a checkout has them beside it.
_FOLDERS = (_PACKAGE / "presets", _PACKAGE.parent / "presets")


# A recipe stands alone and comes first; the others change some of its keys.
ROLES = (RECIPE, SIZE, OVERLAY, STAGE) = ("recipe", "size", "overlay", "stage")
OWN = "own"


@dataclass(frozen=True)
class Preset:
    """A TOML file of keys; `about` is the comment it opens with.

    `role`: what the file says it is, one of ROLES; OWN where it says nothing.
    """

    name: str
    path: Path
    about: str
    keys: dict[str, Any]
    role: str


def folder() -> Path:
    """Where the presets that come with `mdt` lie."""
    for candidate in _FOLDERS:
        if (candidate / "size").is_dir():
            return candidate
    raise MdtError("the presets that belong to mdt are missing", "install mdt again")


def names() -> list[str]:
    """Every preset that comes with `mdt`, sizes last."""
    root = folder()
    found = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml")]
    return sorted(found, key=lambda name: ("/" in name, name))


def read_preset(name: str) -> Preset:
    """A preset by its name, such as `mdtv2` or `size/s`, or by the path of a TOML file."""
    path = Path(name) if name.endswith(".toml") else folder() / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            stem = name.removesuffix(".toml")
            hint = (
                f"did you mean {stem}?" if stem in names() else "`mdt presets` lists those of mdt"
            )
            raise MdtError(f"no such preset file: {name}", hint)
        near = nearest(name, names()) or nearest(f"size/{name}", names(), cutoff=0.9)
        hint = f"did you mean {near}?" if near else "`mdt presets` lists them"
        raise MdtError(f"no such preset: {name}", hint)
    try:
        keys, text = read_toml(path)
    except OSError as error:
        raise MdtError(f"preset {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise MdtError(f"preset {path} cannot be read: {error}") from error
    role = keys.pop("role", OWN)
    if role not in (*ROLES, OWN):
        raise MdtError(f'preset {path} has the role "{role}"', f"a role is {', '.join(ROLES)}")
    return Preset(name, path, _opening_comment(text), keys, role)


def check_order(presets: Sequence[Preset]) -> None:
    """MdtError for two recipes or two sizes, or a recipe that would override a preset before it.

    A file without a role is a recipe or an overlay, as its author means it.
    """
    for role in (RECIPE, SIZE):
        found = list(dict.fromkeys(preset.name for preset in presets if preset.role == role))
        if len(found) > 1:
            shown = " and ".join(f"-p {name}" for name in found)
            raise MdtError(
                f"{shown} are {len(found)} {role}s, and what came out would be neither",
                "choose one of them",
            )
    after = [p for k, p in enumerate(presets) if p.role == RECIPE and _has_others(presets[:k])]
    if after:
        recipe = after[0]
        others = dict.fromkeys(p.name for p in presets if p.name != recipe.name)
        right = " ".join(f"-p {name}" for name in (recipe.name, *others))
        before = next(iter(others))
        raise MdtError(
            f"the recipe {recipe.name} comes after -p {before} and would override it",
            f"the recipe comes first: {right}",
        )


def _has_others(presets: Sequence[Preset]) -> bool:
    return any(preset.role != RECIPE for preset in presets)


def _opening_comment(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()
