"""From a set of images to features: threads decode and resize while the network works."""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mdt_cli.core.metrics.extractor import Extractor, extract_batch
from mdt_cli.core.metrics.moments import Moments, Statistics
from mdt_cli.core.metrics.sets import ImageSet, Raw, decode, pixel_digest, read_raw
from mdt_cli.errors import MdtError

SPATIAL_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """Some images of a set, in reading order."""

    names: list[str]
    digests: list[bytes]
    # float32 [B,D+S] (pooled, then spatial) once the network ran, before that [B,3,h,w].
    values: Tensor


@dataclass(frozen=True)
class Extracted:
    """What one pass over a set gave."""

    statistics: Statistics
    # float32, rows sorted by the digest of their image, so that no metric depends on file order
    # and any leading part is a random sample; None unless asked for.
    features_ND: Tensor | None
    # int64 [N]: which image of the set, in reading order, each row of the features is.
    positions_N: Tensor
    # The sorted digests themselves: row i of the features is of the image digests[i].
    digests: tuple[bytes, ...] = ()
    # The same for the spatial features, where the extractor gives them.
    spatial: Statistics | None = None
    spatial_NS: Tensor | None = None


def extract(
    images: ImageSet, extractor: Extractor, device: torch.device, batch_size: int, keep: bool
) -> Generator[int, None, Extracted]:
    """Yield the number of images done after each batch; return moments and, if `keep`, features."""
    batches = feature_batches(images, extractor, device, batch_size)
    return (yield from collect(images, extractor, batches, keep))


def feature_batches(
    images: ImageSet,
    extractor: Extractor,
    device: torch.device,
    batch_size: int,
    source: Iterator[tuple[str, Raw]] | None = None,
) -> Iterator[Batch]:
    """All images, or those that `source` reads, as features on the CPU.

    NaN and wrong widths are MdtError.
    """
    for batch in _batches(images, extractor, device, batch_size, source or read_raw(images)):
        features_BD = batch.values
        if device.type != "cpu":
            features_BD = extract_batch(extractor, batch.values.to(device))
        _check(images, batch.names, features_BD, extractor)
        yield Batch(batch.names, batch.digests, features_BD)


def collect(
    images: ImageSet, extractor: Extractor, batches: Iterable[Batch], keep: bool
) -> Generator[int, None, Extracted]:
    """As `extract`, from features that were made here, elsewhere or earlier.

    The set's digest is over the sorted digests of its pixels: order, names and container (folder,
    zip, npz) do not enter.
    """
    pooled, spatial = Moments(extractor.dimensions), Moments(extractor.spatial)
    split = [extractor.dimensions, extractor.spatial]
    # Spatial rows only tell the error of sFID: of a very large set they are not worth their room.
    few = 4 * images.count * extractor.spatial <= SPATIAL_BYTES
    kept_of = [extractor.dimensions, extractor.spatial if few else 0]
    kept_NW = torch.empty(images.count, sum(kept_of)) if keep else None
    digests: list[bytes] = []
    for batch in batches:
        for moments, part in zip((pooled, spatial), batch.values.split(split, 1), strict=True):
            moments.add(part)
        if kept_NW is not None:
            rows = slice(len(digests), len(digests) + len(batch.names))
            kept_NW[rows] = batch.values[:, : sum(kept_of)]
        digests += batch.digests
        yield len(digests)
    order_N = torch.tensor(sorted(range(len(digests)), key=digests.__getitem__))
    in_order = tuple(sorted(digests))
    features_ND, spatial_NS = None, None
    if kept_NW is not None:
        features_ND, spatial_NS = (part[order_N] for part in kept_NW.split(kept_of, 1))

    def statistics(moments: Moments) -> Statistics:
        mu_D, sigma_DD = moments.finish()
        return Statistics(
            mu_D=mu_D,
            sigma_DD=sigma_DD,
            digest=hashlib.sha256(b"".join(in_order)).hexdigest(),
            extractor=extractor.name,
            resize=extractor.resize,
            count=len(digests),
            size=images.size,
        )

    return Extracted(
        statistics=statistics(pooled),
        features_ND=features_ND,
        positions_N=order_N,
        digests=in_order,
        spatial=statistics(spatial) if extractor.spatial else None,
        spatial_NS=spatial_NS if kept_of[1] else None,
    )


def _batches(
    images: ImageSet,
    extractor: Extractor,
    device: torch.device,
    batch_size: int,
    source: Iterator[tuple[str, Raw]],
) -> Iterator[Batch]:
    """Batches in reading order, from threads that work a little ahead.

    On a CPU each thread runs the network by itself, on one core: faster than one network spread
    over the cores, several times so on a busy machine, and the rounding of an image then depends
    neither on the number of cores nor on the batch it came in.
    """

    def work(chunk: list[tuple[str, Raw]]) -> Batch:
        names, digests, prepared = [], [], []
        for name, raw in chunk:
            pixels = decode(images, name, raw)
            names.append(name)
            digests.append(pixel_digest(pixels))
            prepared.append(extractor.prepare(pixels))
        values = torch.from_numpy(np.stack(prepared))
        if device.type == "cpu":
            values = extract_batch(extractor, values)
        return Batch(names, digests, values)

    num_threads = min(8, torch.get_num_threads()) if device.type == "cpu" else 8
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Batch]] = deque()
    try:
        while chunk := list(islice(source, batch_size)):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # The workers' one thread is also what the linear algebra library took for itself.
        torch.set_num_threads(torch.get_num_threads())


def _check(images: ImageSet, names: list[str], features_BD: Tensor, extractor: Extractor) -> None:
    if features_BD.shape[1] != extractor.width:
        raise MdtError(
            f"the extractor gave {features_BD.shape[1]} features, expected {extractor.width}",
            "its weights belong to another network",
        )
    bad = [
        name
        for name, good in zip(names, features_BD.isfinite().all(1).tolist(), strict=True)
        if not good
    ]
    if bad:
        raise MdtError(
            f"{images.path}: the features of {bad[0]} are NaN or infinite",
            f"{extractor.name} overflows on it: look at the image, and use --device cpu to be sure",
        )
