"""The keys that a configuration may have, as its tables define them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from mdt_cli.config.run import RunConfig


def variants(annotation: Any) -> list[type[BaseModel]]:
    """The tables with a kind among which a key chooses; none where it does not choose."""
    return [
        member
        for member in getattr(annotation, "__args__", ())
        if isinstance(member, type)
        and issubclass(member, BaseModel)
        and "kind" in member.model_fields
    ]


def tables(annotation: Any) -> list[type[BaseModel]]:
    """The table that a key holds, or the variants it may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return variants(annotation)


def kind_of(table: type[BaseModel]) -> str:
    """The kind by which a variant is chosen."""
    return str(table.model_fields["kind"].default)


def known_keys(
    tree: Mapping[str, Any] | None = None, table: type[BaseModel] = RunConfig, prefix: str = ""
) -> list[str]:
    """Every dotted key that may be set; of a union, the variant that `tree` chose or all."""
    keys: list[str] = []
    for name, field in table.model_fields.items():
        found = tables(field.annotation)
        inner = None if tree is None else tree.get(name, {})
        if isinstance(inner, Mapping) and len(found) > 1:
            chosen = inner.get("kind", getattr(field.default, "kind", None))
            found = [t for t in found if kind_of(t) == chosen] or found
        keys.append(prefix + name)
        for one in found:
            below = inner if isinstance(inner, Mapping) else None
            keys += known_keys(below, one, f"{prefix}{name}.")
    return sorted(set(keys))


def annotation_of(key: str) -> Any:
    """The type of a key below one table or any variant; None where there is no such key."""
    level: list[Any] = [RunConfig]
    annotation: Any = None
    for part in key.split("."):
        if part.isdigit():
            annotation = _inner_table(annotation)
            level = tables(annotation)
            continue
        fields = [t.model_fields[part] for t in level if part in t.model_fields]
        if not fields:
            return None
        annotation = fields[0].annotation
        level = [table for field in fields for table in tables(field.annotation)]
    return annotation


def dotted(location: Sequence[str | int]) -> str:
    """A place in pydantic's report as a dotted key, without what it puts between two keys.

    Those are the kind of a variant, and the branch of a value that may be of several types.
    """
    return ".".join(str(part) for part in _parts(location))


def _parts(location: Sequence[str | int]) -> Iterator[str | int]:
    annotation: Any = RunConfig
    for part in location:
        variant = next((v for v in variants(annotation) if kind_of(v) == part), None)
        if variant is not None:
            annotation = variant
            continue
        if annotation is not None and not tables(annotation) and isinstance(part, str):
            if _inner_table(annotation) is None:
                return
            annotation = _inner_table(annotation)
        yield part
        if isinstance(part, int):
            annotation = _inner_table(annotation) or annotation
            continue
        fields = getattr(annotation, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None


def _inner_table(annotation: Any) -> Any:
    """The table of which a list has several, as masking.views does."""
    members = getattr(annotation, "__args__", ())
    return next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
