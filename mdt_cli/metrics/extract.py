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

from mdt_cli.errors import MdtError
from mdt_cli.images.contents import pixel_digest
from mdt_cli.images.decode import Raw
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extractors.extractor import Extractor, extract_batch
from mdt_cli.metrics.feature_rows import RowSample
from mdt_cli.metrics.statistics import Moments, Statistics

SPATIAL_BYTES = 1 << 30


@dataclass(frozen=True)
class ImageBatch:
    """Some images of a set, in reading order."""

    names: list[str]
    digests: list[bytes]
    # float32 [B,D+S] (pooled, then spatial) once the network ran, before that [B,3,h,w].
    values: Tensor


@dataclass(frozen=True)
class Extracted:
    """What one pass over a set gave."""

    statistics: Statistics
    # float32 [K,D], the leading rows in an order that the pixels alone decide (see
    # `feature_rows.Rows`): no metric depends on file order, and any leading part is a random
    # sample. None unless asked for.
    features_ND: Tensor | None
    # int64 [N]: where in reading order each image of that order is, those beyond K included.
    positions_N: Tensor
    # Of all images, in the same order: row i of the features is of the image digests[i].
    digests: tuple[bytes, ...] = ()
    # The same for the spatial features, where the extractor gives them.
    spatial: Statistics | None = None
    spatial_NS: Tensor | None = None

    @property
    def is_whole(self) -> bool:
        """Whether there is a row of features for each image."""
        return self.features_ND is not None and len(self.features_ND) == self.statistics.count


def extract(
    images: SizedSet, extractor: Extractor, device: torch.device, batch_size: int, keep: bool
) -> Generator[int, None, Extracted]:
    """Yield the number of images done after each batch; return moments and, if `keep`, features."""
    batches = feature_batches(images, extractor, device, batch_size)
    return (yield from collect(images, extractor, batches, keep))


def feature_batches(
    images: SizedSet,
    extractor: Extractor,
    device: torch.device,
    batch_size: int,
    source: Iterator[tuple[str, Raw]] | None = None,
) -> Iterator[ImageBatch]:
    """All images, or those that `source` reads, as features on the CPU.

    NaN and wrong widths are MdtError.
    """
    for batch in _batches(images, extractor, device, batch_size, source or images.read()):
        features_BD = batch.values
        if device.type != "cpu":
            features_BD = extract_batch(extractor, batch.values.to(device))
        _check(images, batch.names, features_BD, extractor)
        yield ImageBatch(batch.names, batch.digests, features_BD)


def collect(
    images: SizedSet,
    extractor: Extractor,
    batches: Iterable[ImageBatch],
    keep: bool,
    most: int | None = None,
) -> Generator[int, None, Extracted]:
    """As `extract`, from features that were made here, elsewhere or earlier.

    Of more images than `most` only that many rows are kept, a random sample. The set's digest is
    over the sorted digests of its pixels: order, names and container (folder, zip, npz) do not
    enter.
    """
    pooled, spatial = Moments(extractor.dimensions), Moments(extractor.spatial)
    split = [extractor.dimensions, extractor.spatial]
    room = min(images.count, most or images.count) if keep else 0
    # Spatial rows serve only the error of sFID, which takes all of them: for a very large set they
    # are not worth their memory.
    few = room == images.count and 4 * images.count * extractor.spatial <= SPATIAL_BYTES
    rows = RowSample(room, (extractor.dimensions, extractor.spatial if few else 0))
    for batch in batches:
        for moments, part in zip((pooled, spatial), batch.values.split(split, 1), strict=True):
            moments.add(part)
        rows.add(batch.digests, batch.values)
        yield len(rows.digests)
    order = rows.order()
    features_ND, spatial_NS = rows.sort(order)
    digest = hashlib.sha256(b"".join(sorted(rows.digests))).hexdigest()

    def statistics(moments: Moments) -> Statistics:
        mu_D, sigma_DD = moments.finish()
        return Statistics(
            mu_D=mu_D,
            sigma_DD=sigma_DD,
            digest=digest,
            extractor=extractor.name,
            resize=extractor.resize,
            count=len(order),
            size=images.size,
        )

    return Extracted(
        statistics=statistics(pooled),
        features_ND=features_ND if keep else None,
        positions_N=torch.tensor(order, dtype=torch.int64),
        digests=tuple(rows.digests[image] for image in order),
        spatial=statistics(spatial) if extractor.spatial else None,
        spatial_NS=spatial_NS if few and extractor.spatial else None,
    )


def _batches(
    images: SizedSet,
    extractor: Extractor,
    device: torch.device,
    batch_size: int,
    source: Iterator[tuple[str, Raw]],
) -> Iterator[ImageBatch]:
    """Batches in reading order, from threads that work a little ahead.

    On a CPU each thread runs the network by itself, on one core: faster than one network spread
    over the cores, several times so on a busy machine, and the rounding of an image then depends
    neither on the number of cores nor on the batch it came in.
    """

    def work(chunk: list[tuple[str, Raw]]) -> ImageBatch:
        names, digests, prepared = [], [], []
        for name, raw in chunk:
            pixels = images.decode(name, raw)
            names.append(name)
            digests.append(pixel_digest(pixels))
            prepared.append(extractor.prepare(pixels))
        values = torch.from_numpy(np.stack(prepared))
        if device.type == "cpu":
            values = extract_batch(extractor, values)
        return ImageBatch(names, digests, values)

    num_threads = min(8, torch.get_num_threads()) if device.type == "cpu" else 8
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[ImageBatch]] = deque()
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


def _check(images: SizedSet, names: list[str], features_BD: Tensor, extractor: Extractor) -> None:
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
