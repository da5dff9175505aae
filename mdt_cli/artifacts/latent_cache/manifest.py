"""The manifest of a finished latent cache, and the facts in it that later stages need."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.latent_cache.format import FORMAT, MANIFEST, PLAN, VERSION
from mdt_cli.artifacts.latent_cache.schema import ManifestFields
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import MAX_LISTING_BYTES, parse_json
from mdt_cli.schema import check_schema
from mdt_cli.text import read_limited

AGAIN = (
    "rerun the same `mdt encode-latents` command; intact shards are kept, the others are re-encoded"
)


@dataclass(frozen=True)
class CacheFacts:
    """What the next stages need to know; input size, channels and classes come from here."""

    codec: dict[str, Any]
    latent_shape: tuple[int, int, int]
    image_size: int
    num_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    count: int
    flip: bool
    stochastic: bool
    dtype: str
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    digest: str

    def header(self) -> dict[str, Any]:
        """The part that travels in the header of weights, as JSON."""
        return {
            "codec": self.codec,
            "latent_shape": list(self.latent_shape),
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "count": self.count,
            "digest": self.digest,
            "latent_mean": list(self.latent_mean),
            "latent_std": list(self.latent_std),
        }


def read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    """`manifest.json` of a finished cache, and its SHA-256. Raises MdtError with what to do."""
    try:
        data = read_limited(path / MANIFEST, MAX_LISTING_BYTES)
    except FileNotFoundError as error:
        if (path / PLAN).exists():
            raise MdtError(f"the cache {path} is not finished", AGAIN) from error
        if not path.exists():
            raise MdtError(
                f"no such latent cache: {path}", "make it with `mdt encode-latents IMAGES CACHE`"
            ) from error
        raise MdtError(
            f"{path} is not a latent cache: it has no {MANIFEST}",
            "make one with `mdt encode-latents IMAGES CACHE`",
        ) from error
    except OSError as error:
        raise MdtError(f"cannot read {path / MANIFEST}: {error.strerror}") from error
    except ValueError as error:
        raise MdtError(f"cannot read {path / MANIFEST}: {error}") from error
    try:
        manifest = parse_json(data)
    except ValueError as error:
        raise MdtError(f"{path / MANIFEST} is damaged: {error}", AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise MdtError(
            f"{path / MANIFEST} is not the manifest of a latent cache",
            "make one with `mdt encode-latents IMAGES CACHE`",
        )
    if manifest.get("version") != VERSION:
        raise MdtError(
            f"the cache {path} has format number {manifest.get('version')}; "
            f"this version of mdt reads {VERSION}",
            "encode the images again, or use the version of mdt that made the cache",
        )
    try:
        check_schema(ManifestFields, manifest)
        if not len(manifest["latent_mean"]) == manifest["latent_shape"][0]:
            raise ValueError("latent_mean: expected one value for each channel")
        if manifest["num_classes"] != len(manifest["classes"]):
            raise ValueError(f"it lists {len(manifest['classes'])} classes, not as many as it says")
    except ValueError as error:
        raise MdtError(f"{path / MANIFEST} is damaged: {error}", AGAIN) from error
    return manifest, hashlib.sha256(data).hexdigest()


def cache_facts(manifest: dict[str, Any], digest: str) -> CacheFacts:
    """The facts in a manifest. LookupError, TypeError or ValueError if one is missing or wrong."""
    channels, height, width = (int(n) for n in manifest["latent_shape"])
    return CacheFacts(
        codec=dict(manifest["codec"]),
        latent_shape=(channels, height, width),
        image_size=int(manifest["image_size"]),
        num_classes=int(manifest["num_classes"]),
        class_names=tuple(str(entry["name"]) for entry in manifest["classes"]),
        class_counts=tuple(int(entry["count"]) for entry in manifest["classes"]),
        count=int(manifest["count"]),
        flip=bool(manifest["flip"]),
        stochastic=bool(manifest["stochastic"]),
        dtype=str(manifest["dtype"]),
        latent_mean=tuple(float(value) for value in manifest["latent_mean"]),
        latent_std=tuple(float(value) for value in manifest["latent_std"]),
        digest=digest,
    )
