"""Features that fast-DiT or LightningDiT wrote become our latent cache; nothing is encoded."""

from collections.abc import Generator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from mdt_cli.artifacts.latent_cache.format import FLIP, MEAN, PIXELS, cache_plan
from mdt_cli.artifacts.latent_cache.write import Content
from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.fill import Filling, stored
from mdt_cli.services.encode.origin import Origin
from mdt_cli.services.encode.other_caches import CacheRows
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.work import Share

ROWS_AT_ONCE = 256
# The default codec of fast-DiT.
FAST_DIT_CODEC = "stabilityai/sd-vae-ft-ema"


def convert(request: EncodeRequest, features: CacheRows, contents: str | None) -> Iterator[Event]:
    """Write the rows of `features` as a cache; the last event is CacheDone.

    `contents` is the rule by which the cache records them, None for one that records nothing.
    """
    if request.flip and not features.flip:
        raise MdtError(
            f"{request.images} has no mirrored latents, and latents cannot be mirrored",
            "leave out --flip, or encode the images",
        )
    yield Note(f"{features.rows} latents of {features.kind}; nothing is re-encoded")
    codec, warnings = _codec(request, features)
    yield from warnings
    rows = range(features.rows)
    if request.limit is not None and request.limit < features.rows:
        picked: Sequence[int] = [k * features.rows // request.limit for k in range(request.limit)]
    else:
        picked = rows
    plan = cache_plan(
        codec=codec,
        image_size=request.size or features.shape[1] * codec["downsampling"],
        latent_shape=features.shape,
        stochastic=False,
        flip=features.flip,
        dtype=request.dtype,
        classes=() if request.unconditional else None,
        kind=features.kind,
        items=len(picked),
        digest=features.digest if contents is None else features.listing_digest,
        shard_rows=request.shard_size,
        crop=None,
        contents=contents,
    )

    origin = of_features(request.images, features, picked)
    filling = Filling(request.cache, plan, Share.from_environment(), request.strict, origin)
    yield from filling.begin()
    with filling:
        for index, span in filling.missing:
            content = yield from _rows(features, picked, span, request, filling)
            filling.write(index, content)
    yield from filling.finish(() if request.unconditional else None)


def _rows(
    features: CacheRows,
    picked: Sequence[int],
    span: range,
    request: EncodeRequest,
    filling: Filling,
) -> Generator[Event, None, Content]:
    """One shard of the rows that were picked."""
    parts = []
    for start in range(span.start, span.stop, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, span.stop)
        parts.append(_part(features, picked[start:stop], request))
        yield filling.advance(stop - start)
    labels = torch.cat([label for _, label, _ in parts])
    tensors = {name: torch.cat([part[name] for part, *_ in parts]) for name in parts[0][0]}
    contents = [digest for _, _, digests in parts for digest in digests]
    return Content(tensors, labels, {}, 0, [], contents)


def _part(
    features: CacheRows, rows: Sequence[int], request: EncodeRequest
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    latents, mirrored, labels, names = features.read(rows)
    if int(labels.min()) < 0:
        raise MdtError(f"{request.images} has a class number below 0", "pass --unconditional")
    tensors = {MEAN: stored(latents, request.dtype, names)}
    if mirrored is not None:
        tensors[MEAN + FLIP] = stored(mirrored, request.dtype, names)
    digests = row_digests(latents, mirrored, labels)
    return tensors, torch.zeros_like(labels) if request.unconditional else labels, digests


def of_features(path: Path, features: CacheRows, picked: Sequence[int]) -> Origin:
    """The origin of a cache of these rows."""

    def files(positions: Sequence[int]) -> set[Path]:
        return features.files_of([picked[k] for k in positions])

    def digests(positions: Sequence[int]) -> Iterator[list[str]]:
        for start in range(0, len(positions), ROWS_AT_ONCE):
            part = positions[start : start + ROWS_AT_ONCE]
            latents, mirrored, labels, _ = features.read([picked[k] for k in part])
            yield row_digests(latents, mirrored, labels)

    return Origin(path, features.names_of(picked), files, digests)


def row_digests(
    latents: torch.Tensor, mirrored: torch.Tensor | None, labels: torch.Tensor
) -> list[str]:
    """SHA-256 of the values and the label of each row."""
    both = (latents,) if mirrored is None else (latents, mirrored)
    return [
        sha256(b"".join(values[k].numpy().tobytes() for values in (*both, labels))).hexdigest()
        for k in range(len(labels))
    ]


def _codec(request: EncodeRequest, features: CacheRows) -> tuple[dict[str, Any], list[Event]]:
    """The codec of the latents, as far as it is recorded, and their scale; warnings about both."""
    channels, side, _ = features.shape
    facts: dict[str, Any] = {
        "name": "autoencoder",
        "kind": None,
        "id": None,
        "weights_sha256": None,
        "shift": features.shift,
        "scale": features.scale,
        "downsampling": 8 if channels == 4 else 16,
        "stochastic": False,
    }
    if request.codec == PIXELS:
        raise MdtError(
            f"{request.images} holds latents, not pixels", "name their autoencoder with --codec"
        )
    if request.codec is not None:
        codec = open_codec(request.codec, torch.device("cpu"))
        named = codec.facts()
        size = request.size or side * named["downsampling"]
        if codec.latent_shape(size) != features.shape:
            raise MdtError(
                f"{request.codec} makes latents of {list(codec.latent_shape(size))} from images "
                f"of {size} pixels; {request.images} holds {list(features.shape)}",
                "name the autoencoder that they were made with",
            )
        return facts | {k: named[k] for k in ("kind", "id", "weights_sha256", "downsampling")}, []
    if features.kind == "fast-dit" and channels == 4:
        facts |= {"kind": "AutoencoderKL", "id": FAST_DIT_CODEC}
        text = f"taken to be latents of {FAST_DIT_CODEC}, fast-DiT's default"
        return facts, [Warned(f"{text}; name another autoencoder with --codec")]
    text = "the autoencoder of these latents is not recorded: `mdt sample` will need --codec"
    return facts, [Warned(text)]
