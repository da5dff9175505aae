"""Presets and `--set` to one validated configuration that remembers who set each key."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from mdt_cli.config import presets
from mdt_cli.config.run import RunConfig
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
    layers += [(_assignment(text), f"--set {shortened(text)}") for text in assignments]
    for keys, source in layers:
        _merge(tree, keys, "", source, sources)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise MdtError(_faults(error, tree, Loaded(RunConfig(), sources))) from error
    has_recipe = base is not None or any(p.role in (presets.RECIPE, presets.OWN) for p in named)
    return Loaded(config, sources, has_recipe)


def _assignment(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise MdtError(f"--set {text}: expected KEY=VALUE", "such as --set training.steps=1000")
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


def _faults(error: ValidationError, tree: Mapping[str, Any], loaded: Loaded) -> str:
    lines = ["the configuration is not valid"]
    faults = error.errors(include_url=False)
    places = [fault["loc"] for fault in faults]
    for fault in faults:
        inside = any(p != fault["loc"] and p[: len(fault["loc"])] == fault["loc"] for p in places)
        if fault["type"] == "too_short" and inside:
            continue  # pydantic counts only the valid items; the invalid ones are reported anyway
        key = ".".join(str(part) for part in _dotted(fault["loc"]))
        if fault["type"] == "extra_forbidden":
            problem = "no such key" + _did_you_mean(key, tree)
        elif fault["type"] == "value_error":
            problem = str(fault["ctx"]["error"])
        elif fault["type"] == "union_tag_invalid":
            wanted = fault["ctx"]["expected_tags"].replace("'", '"')
            given = fault["ctx"]["tag"]
            near = difflib.get_close_matches(given, wanted.replace('"', "").split(", "), n=1)
            key += ".kind"
            problem = f'no such kind "{given}"; there are {wanted}'
            problem += f"; did you mean {near[0]}?" if near else ""
        else:
            message = fault["msg"]
            problem = f"{message[:1].lower()}{message[1:]}, not {shortened(repr(fault['input']))}"
        # A fault between several keys names them; whoever set one of those can mend it.
        words = set(problem.replace(",", " ").replace(":", " ").split())
        between = {
            who
            for known, who in loaded.sources.items()
            if known in words or known.removeprefix(f"{key}.") in words
        }
        setters = loaded.source(key)
        if between and key in ("", *tree):
            setters = ", ".join(sorted(between))
        lines.append(f"  {key + ': ' if key else ''}{problem}  (set by {setters})")
    return "\n".join(lines)


def _dotted(location: Sequence[str | int]) -> Iterator[str | int]:
    """Without the union tags that pydantic puts between a key and the keys of its variant."""
    annotation: Any = RunConfig
    for part in location:
        variant = next(
            (v for v in _variants(annotation) if v.model_fields["kind"].default == part), None
        )
        if variant is not None:
            annotation = variant
            continue
        yield part
        fields = getattr(annotation, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None


def _variants(annotation: Any) -> list[type[BaseModel]]:
    return [
        member
        for member in getattr(annotation, "__args__", ())
        if isinstance(member, type)
        and issubclass(member, BaseModel)
        and "kind" in member.model_fields
    ]


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The table that a key holds, or the variants it may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return _variants(annotation)


def known_keys(
    tree: Mapping[str, Any] | None = None, table: type[BaseModel] = RunConfig, prefix: str = ""
) -> list[str]:
    """Every dotted key that may be set; of a union, the variant that `tree` chose or all."""
    keys: list[str] = []
    for name, field in table.model_fields.items():
        annotation = field.annotation
        tables = _tables(annotation)
        inner = None if tree is None else tree.get(name, {})
        if isinstance(inner, Mapping) and len(tables) > 1:
            chosen = inner.get("kind", getattr(field.default, "kind", None))
            tables = [t for t in tables if t.model_fields["kind"].default == chosen] or tables
        keys.append(prefix + name)
        for one in tables:
            below = inner if isinstance(inner, Mapping) else None
            keys += known_keys(below, one, f"{prefix}{name}.")
    return sorted(set(keys))


def _did_you_mean(key: str, tree: Mapping[str, Any]) -> str:
    known = known_keys(tree)
    table, _, last = key.rpartition(".")
    beside = [k for k in known if k.rpartition(".")[0] == table]
    same_name = [k for k in known if k.rpartition(".")[2] == last]
    near = (
        difflib.get_close_matches(key, beside, n=1)
        or same_name
        or difflib.get_close_matches(key, known, n=1)
    )
    if near:
        return f"; did you mean {near[0].rpartition('.')[2] if near[0] in beside else near[0]}?"
    return f"; there are {', '.join(k.rpartition('.')[2] for k in beside)}" if beside else ""
