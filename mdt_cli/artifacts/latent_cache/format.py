"""The names of the latent cache's format, and the plan that decides every byte of a cache."""

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError

FORMAT, VERSION = "mdt-latents", 1
MANIFEST, PLAN = "manifest.json", "plan.json"
# Tensors of a shard besides `label`: these for autoencoders, `pixels` for the codec of that name.
PIXELS, MEAN, STD, FLIP = "pixels", "mean", "std", "_flip"
# Bytes of one value.
WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4}
# Part of the free space that a cache may fill by estimate: compression of file systems and other
# writers are not known.
SPACE_TO_SPARE = 0.98

Plan = Mapping[str, Any]


def cache_plan(
    *,
    codec: dict[str, Any],
    image_size: int,
    latent_shape: tuple[int, int, int],
    stochastic: bool,
    flip: bool,
    dtype: str,
    classes: Sequence[str] | None,
    kind: str,
    items: int,
    digest: str,
    shard_rows: int | None,
    crop: str | None,
    contents: str | None = None,
    order: str = "text",
) -> dict[str, Any]:
    """Everything that decides the bytes of a cache, as JSON.

    `latent_shape` [C,H,W]; `classes` None: as many as the labels need; `shard_rows` None: as many
    as give shards of at most 128 MiB. `order` is the rule of order; that of version 0.1 ("text") is
    not recorded, since plans of that version have no such key. `contents` is the rule by which
    contents are recorded; None for caches begun by version 0.1, which recorded none.
    """
    pixels = codec["name"] == PIXELS
    rule = {} if order == "text" else {"order": order}
    return {
        "format": FORMAT,
        "version": VERSION,
        "codec": codec,
        "image_size": image_size,
        "crop": crop,
        "latent_shape": list(latent_shape),
        "stochastic": stochastic,
        "flip": flip,
        "dtype": "uint8" if pixels else dtype,
        "labelled": classes is None or len(classes) > 0,
        "source": {
            "kind": kind,
            "items": items,
            "digest": digest,
            **rule,
            **({} if contents is None else {"contents": contents}),
        },
        "shard_rows": shard_rows or _shard_rows(_row_bytes(latent_shape, stochastic, flip, dtype)),
    }


def refuse_other_plan(
    folder: Path,
    before: dict[str, Any],
    plan: dict[str, Any],
    difference: Callable[[dict[str, Any]], str],
) -> None:
    """MdtError where the cache in `folder` was started with another plan, with the first change.

    `difference` says how the images differ from those of `before`, as far as that is known.
    """
    if before.get("version") != plan["version"]:
        raise MdtError(
            f"{folder} is a cache of format number {before.get('version')}, "
            f"this version of mdt writes {plan['version']}",
            "choose a new folder",
        )
    for key, value in plan.items():
        old = before.get(key)
        if old == value:
            continue
        if key == "source":
            counts = f"{(old or {}).get('items')} then, {value['items']} now"
            raise MdtError(
                f"{folder} was made from other images ({counts}){difference(before)}",
                "added, removed or changed images are a new cache: choose a new folder",
            )
        if key == "codec":
            old, value = _codec_name(old or {}), _codec_name(value)
        raise MdtError(
            f"{folder} was started with {key} {old}, not {value}",
            "choose a new folder, or rerun the command that it was started with",
        )


def _codec_name(facts: dict[str, Any]) -> str:
    weights = facts.get("weights_sha256")
    return str(facts.get("id") or facts.get("name")) + (f" ({weights[:12]})" if weights else "")


def refuse_little_space(folder: Path, plan: dict[str, Any], todo: Sequence[range]) -> None:
    """MdtError where the disk has too little space for the items in `todo`."""
    row = _row_bytes(plan["latent_shape"], plan["stochastic"], plan["flip"], plan["dtype"])
    needed = row * sum(len(span) for span in todo)
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if needed > free * SPACE_TO_SPARE:
        raise MdtError(
            f"the cache needs {needed / 2**30:.2f} GiB; {parent} has {free / 2**30:.2f} GiB free",
            "choose another disk, a smaller --size, no --flip, or --limit",
        )


def _row_bytes(shape: Sequence[int], stochastic: bool, flip: bool, dtype: str) -> int:
    channels, height, width = shape
    values = channels * height * width
    if dtype == "uint8":
        return values + 8
    copies = (1 + stochastic) * (1 + flip)
    return values * copies * WIDTHS[dtype] + 8


def estimate(plan: dict[str, Any]) -> int:
    """Bytes of the cache on disk, once it is finished."""
    row = _row_bytes(plan["latent_shape"], plan["stochastic"], plan["flip"], plan["dtype"])
    return row * int(plan["source"]["items"])


def _shard_rows(row_bytes: int) -> int:
    """A power of two from 16 to 2048, so that a shard is at most 128 MiB where that is possible.

    It cannot depend on the number of processes: the same images give the same files.
    """
    rows = 2048
    while rows > 16 and rows * row_bytes > 128 << 20:
        rows //= 2
    return rows


def versions(plan: dict[str, Any]) -> dict[str, str]:
    """Versions of the packages that the bytes of the cache depend on."""
    names = ["torch", "numpy", "pillow", "safetensors"]
    if plan["codec"]["name"] != PIXELS:
        names.append("diffusers")
    return {name: importlib.metadata.version(name) for name in names}
