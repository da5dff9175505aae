"""The first stage: images of any layout to a latent cache."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdt_cli.artifacts.latent_cache.format import FLIP, MEAN, PIXELS, STD, cache_plan, estimate
from mdt_cli.artifacts.latent_cache.write import DTYPES, Content, begun
from mdt_cli.artifacts.open_images import open_images
from mdt_cli.core.codecs.codec import Codec, open_codec
from mdt_cli.errors import MdtError
from mdt_cli.images.decode import Raw, stored_size
from mdt_cli.images.depth import a_few, check_depth
from mdt_cli.images.image_set import ImageSet, limited, without_classes
from mdt_cli.images.labels import other_number
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.pixel_rule import FULL_WHITE, RULE, PixelRule, known_rule
from mdt_cli.images.reading import NEWEST, Order, known_order
from mdt_cli.images.sized import check_crop
from mdt_cli.images.workers import Decoded, Decoders
from mdt_cli.services.encode.convert import convert, of_features
from mdt_cli.services.encode.fill import (
    Filling,
    finished_cache,
    printable,
    stored,
    unreadable_error,
)
from mdt_cli.services.encode.origin import Origin, of_images, records_contents
from mdt_cli.services.encode.other_caches import find_features
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.encode.verify import verify_images
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.meeting import as_only_writer
from mdt_cli.services.runtime import own_cores, own_device
from mdt_cli.services.work import Share

DEFAULT_SIZE = 256


def encode_latents(request: EncodeRequest) -> Generator[Event, None, None]:
    """Encode images to a latent cache, or resume; the last event is CacheDone."""
    _check(request)
    share = Share.from_environment()
    if request.verify:
        yield from verify_images(request.cache, request.images, partial(_all_images, request))
        yield from finished_cache(request.cache, unchanged=True)
        return
    yield from as_only_writer(request.cache, True, share, _fill(request, share))


def _fill(request: EncodeRequest, share: Share) -> Iterator[Event]:
    before = begun(request.cache)
    order, contents = _order(before), records_contents(before)
    features = find_features(request.images)
    if features is not None:
        if request.reading.options:
            raise MdtError(
                f"{' and '.join(request.reading.options)} cannot be used for {request.images}, "
                f"which holds features ({features.kind})",
                f"leave out {' and '.join(request.reading.options)}",
            )
        yield from convert(request, features, contents)
        return
    source = limited(_open(request, order), request.limit)
    if len(source.classes) == 1:
        raise MdtError(
            f"{request.images} has one class only ({source.classes[0]}): "
            "there is nothing to condition on",
            "pass --unconditional to leave the class out, or add a second class",
        )
    size = request.size or DEFAULT_SIZE
    check_crop(source, size)
    rule = _pixel_rule(before, request.white)
    yield from _summary(source, order)
    few = a_few(source)
    if before is None and request.white is None:
        check_depth(
            request.images,
            few,
            "--white 4095 makes that value white, --white 65535 reads the values as they are",
        )
    yield from _small_images(few, size)
    codec = open_codec(request.codec or PIXELS, own_device(request.device))
    facts, shape = codec.facts(), codec.latent_shape(size)
    plan = cache_plan(
        codec=facts,
        image_size=size,
        latent_shape=shape,
        stochastic=facts.get("stochastic", False),
        flip=request.flip,
        dtype=request.dtype,
        classes=source.classes,
        kind=source.kind,
        items=len(source),
        digest=source.digest if contents is None else source.listing_digest,
        shard_rows=request.shard_size,
        crop=rule.text,
        contents=contents,
        order=order,
    )
    total = estimate(plan)
    yield Note(f"the cache will take about {total / 2**20:.1f} MiB in {request.cache}")
    workers = own_cores() if request.workers is None else request.workers

    origin = of_images(source, workers)
    filling = Filling(request.cache, plan, share, request.strict, origin)
    yield from filling.begin()
    open_spans = [span for _, span in filling.missing]
    # One set of workers for all shards, so that they decode ahead across the ends of shards.
    with filling, Decoders(source.reader, size, workers if open_spans else 0, rule) as decoders:
        decoded = decoders.decode(source.locations, open_spans)
        for index, span in filling.missing:
            content = yield from _encode(request, source, codec, span, decoded, filling)
            filling.write(index, content)
    yield from filling.finish(source.classes)


def _encode(
    request: EncodeRequest,
    source: ImageSet,
    codec: Codec,
    span: range,
    decoded: Iterator[Decoded],
    filling: Filling,
) -> Generator[Event, None, Content]:
    """One shard: no batch crosses its ends, so its bytes depend on nothing else."""
    kept: list[int] = []
    skipped: list[dict[str, str]] = []
    modes: dict[str, int] = {}
    enlarged, seen = 0, 0
    contents: list[str] = []
    waiting: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    encoded: list[dict[str, Tensor]] = []
    pixels = codec.facts()["name"] == PIXELS
    while seen < len(span):
        part = next(decoded)
        seen += len(part.kept) + len(part.skipped)
        for index, reason in part.skipped:
            if request.strict:
                raise unreadable_error(printable(source.names[index]), reason)
            skipped.append({"name": printable(source.names[index]), "reason": printable(reason)})
        for mode, number in part.modes.items():
            modes[mode] = modes.get(mode, 0) + number
        enlarged += part.enlarged
        contents += part.contents
        kept.extend(part.kept)
        waiting.append(part.pixels)
        finished = len(part.skipped) + (len(part.kept) if pixels else 0)
        if finished:
            yield filling.advance(finished)
        if pixels:
            continue
        ready = np.concatenate(waiting)
        last = seen == len(span)
        stop = len(ready) if last else len(ready) - len(ready) % request.batch_size
        for start in range(0, stop, request.batch_size):
            batch = torch.from_numpy(ready[start : min(start + request.batch_size, stop)])
            first = sum(len(done[MEAN]) for done in encoded)
            names = [source.names[k] for k in kept[first : first + len(batch)]]
            encoded.append(_latents(codec, batch, request, names))
            yield filling.advance(len(batch))
        waiting = [ready[stop:]]
    labels = torch.tensor([source.labels[k] for k in kept], dtype=torch.int64)
    if pixels:
        tensors = {PIXELS: torch.from_numpy(np.concatenate(waiting))}
    elif encoded:
        tensors = {name: torch.cat([done[name] for done in encoded]) for name in encoded[0]}
    else:
        tensors = {MEAN: torch.empty(0, *codec.latent_shape(request.size or DEFAULT_SIZE))}
    return Content(tensors, labels, modes, enlarged, skipped, contents)


def _latents(
    codec: Codec, pixels: Tensor, request: EncodeRequest, names: Sequence[str]
) -> dict[str, Tensor]:
    images = pixels.float().div_(127.5).sub_(1)
    out = {}
    for suffix in ("", FLIP) if request.flip else ("",):
        mean, std = codec.encode(images.flip(-1) if suffix else images)
        out[MEAN + suffix] = stored(mean, request.dtype, names)
        if std is not None:
            out[STD + suffix] = stored(std, request.dtype, names)
    return out


def _all_images(request: EncodeRequest) -> Origin:
    """What a cache may have been made from, whatever was chosen of it."""
    features = find_features(request.images)
    if features is not None:
        return of_features(request.images, features, range(features.rows))
    workers = own_cores() if request.workers is None else request.workers
    reading = replace(request.reading, order=_order(begun(request.cache)))
    return of_images(open_images(request.images, reading), workers)


def _order(before: Mapping[str, Any] | None) -> Order:
    """The rule by which the cache was begun; a new one is made by the newest."""
    if before is None:
        return NEWEST
    source = before.get("source")
    return known_order(source.get("order") if isinstance(source, dict) else None)


def _pixel_rule(before: Mapping[str, Any] | None, white: int | None) -> PixelRule:
    """The rule that the cache was begun by, or the newest; `white` where it is asked for."""
    rule = RULE if before is None else known_rule(before.get("crop"))
    return rule if white is None else replace(rule, white=white)


def _open(request: EncodeRequest, order: Order) -> ImageSet:
    """The images with their classes. MdtError where the classes contradict each other."""
    images = open_images(request.images, replace(request.reading, order=order))
    # Samples are encoded without their classes: caches of earlier versions are resumed.
    if request.unconditional or images.provenance is not None:
        return without_classes(images)
    if images.fault is not None:
        raise images.fault
    return images


def _check(request: EncodeRequest) -> None:
    labels = [option for option in request.reading.options if option.startswith("--label")]
    if request.unconditional and labels:
        raise MdtError(
            f"{' and '.join(labels)} cannot be combined with --unconditional, which ignores all "
            "labels",
            "leave one of them out",
        )
    for name, value, least in (
        ("--size", request.size, 1),
        ("--workers", request.workers, 0),
        ("--limit", request.limit, 1),
        ("--batch-size", request.batch_size, 1),
        ("--shard-size", request.shard_size, 1),
        ("--white", request.white, 1),
    ):
        if value is not None and value < least:
            raise MdtError(f"{name} {value} is too small", f"give a number from {least}")
    if request.white is not None and request.white > FULL_WHITE:
        raise MdtError(f"--white {request.white} is too large", f"give a number to {FULL_WHITE}")
    if request.dtype not in DTYPES:
        raise MdtError(f"no such --dtype: {request.dtype}", f"use one of {', '.join(DTYPES)}")


def _summary(source: ImageSet, order: Order) -> Iterator[Event]:
    for note in source.notes:
        yield Warned(note)
    if order != NEWEST:
        yield Note("the cache was begun by version 0.1: names stay sorted as text")
    ignored = ", ".join(f"{number} {what}" for what, number in sorted(source.ignored.items()))
    yield Note(
        f"{len(source)} images ({source.kind}), "
        + (f"{len(source.classes)} classes" if source.classes else "no classes")
        + (f"; ignored: {ignored}" if ignored else "")
    )
    number = other_number(source.classes)
    if number is not None:
        yield Note(
            f"classes are named by numbers that are not their indices: class {number} is named "
            f"{source.classes[number]}"
        )


def _small_images(few: Sequence[Raw], size: int) -> Iterator[Event]:
    """A warning, before hours of work, where the images looked at are all smaller than `size`."""
    sizes = []
    for raw in few:
        # A broken image is reported when it is decoded.
        with suppress(UnreadableError, OSError):
            sizes.append(stored_size(raw))
    if sizes and all(min(side) < size for side in sizes):
        width, height = sizes[0]
        yield Warned(
            f"the images are small ({width}x{height} and the like); --size {size} enlarges them"
        )
