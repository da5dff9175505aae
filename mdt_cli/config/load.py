"""Presets and `--set` to one validated configuration that remembers who set each key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mdt_cli.config import presets
from mdt_cli.config.faults import described
from mdt_cli.config.run import RunConfig
from mdt_cli.config.suggestions import replacements, typed
from mdt_cli.errors import MdtError
from mdt_cli.text import shortened
from mdt_cli.toml_reader import MAX_BYTES, MAX_PARTS, parse_toml

DEFAULT = "default"


@dataclass(frozen=True)
class Loaded:
    """A valid configuration; `sources` maps a dotted key to who set it (absent: the default).

    `has_recipe`: whether a preset, or what it starts from, names what is trained.
    """

    config: RunConfig
    sources: Mapping[str, str]
    has_recipe: bool = True

    def source(self, key: str) -> str:
        """Who set `key`, or the table or list around it."""
        below = [who for known, who in self.sources.items() if known.startswith(key + ".")]
        if below:
            return ", ".join(dict.fromkeys(below))
        while key:
            if key in self.sources:
                return self.sources[key]
            key = key.rpartition(".")[0]
        return DEFAULT


def load_config(
    preset_names: Sequence[str],
    assignments: Sequence[str],
    base: Mapping[str, Any] | None = None,
    base_source: str = "the weights it starts from",
    any_order: bool = False,
) -> Loaded:
    """Compose base < presets left to right < assignments (`a.b=TOML value`) left to right.

    Raises one MdtError that lists every fault with who set it and the nearest valid key, or says in
    which order the presets go; `any_order` takes them as they come.
    """
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    layers: list[tuple[Mapping[str, Any], str]] = []
    if base is not None:
        layers.append((base, base_source))
    named = [presets.read_preset(name) for name in preset_names]
    if not any_order:
        presets.check_order(named)
    layers += [(preset.keys, f"preset {preset.name}") for preset in named]
    layers += [
        (_assignment(text), f"--set {shortened(text)}") for text in sorted(assignments, key=_is_key)
    ]
    for keys, source in layers:
        _merge(tree, keys, "", source, sources)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = described(error, tree, sources, Loaded(RunConfig(), sources).source)
        hint = _mended(error, tree, layers[: len(layers) - len(assignments)], assignments)
        raise MdtError("\n".join(["the configuration is not valid", *lines]), hint) from error
    has_recipe = base is not None or any(p.role in (presets.RECIPE, presets.OWN) for p in named)
    return Loaded(config, sources, has_recipe)


def _is_key(text: str) -> bool:
    """False for a kind: what is set of a variant is set after the variant was chosen."""
    return not text.partition("=")[0].strip().endswith(".kind")


def _mended(
    error: ValidationError,
    tree: Mapping[str, Any],
    layers: Sequence[tuple[Mapping[str, Any], str]],
    assignments: Sequence[str],
) -> str | None:
    """What to type instead of the faulty assignments, where that gives a valid configuration.

    `layers` are those below the assignments.
    """
    instead = replacements(error, tree, assignments)
    written = [new for text in assignments for new in instead.get(text, [text])]
    mended: dict[str, Any] = {}
    layers = [*layers, *((_assignment(text), "") for text in sorted(written, key=_is_key))]
    for keys, source in layers:
        _merge(mended, keys, "", source, {})
    try:
        RunConfig.model_validate(mended)
    except ValidationError:
        return None
    return f"write {typed([new for news in instead.values() for new in news])}"


def _assignment(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise MdtError(
            f"--set {shortened(text)}: expected KEY=VALUE", "such as --set training.steps=1000"
        )
    if len(parts) > MAX_PARTS or len(text) > MAX_BYTES:
        raise MdtError(
            f"--set {shortened(text)}: a key has at most {MAX_PARTS} parts, a value {MAX_BYTES:,} "
            "characters"
        )
    try:
        tables = parse_toml(f"value = {value}")
        # A line break in the value begins another key.
        parsed: Any = tables["value"] if len(tables) == 1 else value.strip()
    except ValueError:
        # A bare word is a string: --set training.precision=bf16
        parsed = value.strip()
    for part in reversed(parts):
        parsed = {part: parsed}
    result: dict[str, Any] = parsed
    return result


def _merge(
    tree: dict[str, Any], keys: Mapping[str, Any], prefix: str, source: str, sources: dict[str, str]
) -> None:
    if "kind" in keys and keys["kind"] != tree.get("kind"):
        # Another variant of a union: what was set for the former one does not belong to it.
        for key in tree:
            _forget(sources, prefix + key)
        tree.clear()
    for key, value in keys.items():
        path = prefix + key
        if isinstance(value, Mapping):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            _merge(tree[key], value, path + ".", source, sources)
        else:
            _forget(sources, path)
            tree[key] = value
            sources[path] = source


def _forget(sources: dict[str, str], path: str) -> None:
    for known in [k for k in sources if k == path or k.startswith(path + ".")]:
        del sources[known]
