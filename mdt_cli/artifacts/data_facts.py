"""What weights and caches say of their data, compared: codec, latent shape, classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.core.codecs.codec import Codec
from mdt_cli.errors import MdtError

# Of an autoencoder, in the facts of a codec.
DIGEST = "weights_sha256"


def check_same_data(
    before: Mapping[str, Any], cache: LatentCache, source: Path, classes: bool = True
) -> None:
    """MdtError unless the cache has the codec, shape and (`classes`) classes of the weights."""
    now = cache.facts.header()
    words = {
        "codec": "another codec",
        "latent_shape": "another latent shape",
        **({"class_names": "other classes"} if classes else {}),
    }
    for key, what in words.items():
        old, new = before[key], now[key]
        if key == "class_names" and not before.get("class_names_known", True):
            # Imported weights may know their classes by number alone.
            old, new = len(old), len(new)
        if key == "class_names" and old != new and _same_members(old, new):
            raise MdtError(
                f"{source} was trained on the classes of the cache in another order: {_short(old)} "
                f"there, {_short(new)} in the cache",
                "use the cache of the first stage (version 0.1 sorted numbers as text), or "
                "--set training.new_classes=true, which starts with a new label table",
            )
        if _comparable(old, new) != _comparable(new, old):
            raise MdtError(
                f"{source} was trained on {what} than the cache holds: {_short(old)} there, "
                f"{_short(new)} in the cache",
                "encode the images as for the first stage, or pretrain on this cache"
                if key != "class_names"
                else "--set training.new_classes=true starts with a new label table",
            )


def _same_members(old: Any, new: Any) -> bool:
    lists = isinstance(old, (list, tuple)) and isinstance(new, (list, tuple))
    return lists and sorted(map(str, old)) == sorted(map(str, new)) and list(old) != list(new)


def _comparable(value: Any, other: Any) -> Any:
    """Without what may differ in the same codec: where it lies, a digest one side knows."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        unknown = [value.get(DIGEST), other.get(DIGEST)].count(None)
        left_out = {0: ("id",), 1: ("id", DIGEST), 2: ()}[unknown]
        return {k: v for k, v in value.items() if k not in left_out}
    return list(value) if isinstance(value, tuple) else value


def codec_doubt(before: Mapping[str, Any], cache: LatentCache) -> str | None:
    """A warning where two codecs agree but for their names and there is no digest to compare."""
    old, new = before["codec"], cache.facts.header()["codec"]
    if old.get("id") == new.get("id") or None not in (old.get(DIGEST), new.get(DIGEST)):
        return None
    return (
        f"the weights are for latents of {_short(old)}, the cache was made with {_short(new)}: "
        "alike in kind and scale, but their weights cannot be compared; "
        "mdt import --codec FOLDER records it"
    )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("id") or value.get("name"))
    if isinstance(value, (list, tuple)) and len(value) > 4:
        return f"{len(value)} ({', '.join(map(str, value[:4]))}, ...)"
    return str(list(value) if isinstance(value, tuple) else value)


def codec_facts(codec: Codec) -> dict[str, Any]:
    """What names the codec that decodes, wherever the header of the weights says it lies."""
    facts = codec.facts()
    return {key: facts[key] for key in ("name", "id", "weights_sha256") if key in facts}
