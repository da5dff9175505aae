"""From a set of images to features: threads decode and resize while the network works."""

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdt_cli.core.metrics.features import Extractor, extract_batch
from mdt_cli.core.metrics.images import ImageSet, Raw, decode, pixel_digest, read_raw
from mdt_cli.core.metrics.moments import Moments, Statistics
from mdt_cli.errors import MdtError

Prepared = tuple[str, bytes, NDArray[np.float32]]


@dataclass(frozen=True)
class Extracted:
    """What one pass over a set gave."""

    statistics: Statistics
    # float32, rows sorted by the digest of their image, so that no metric depends on file order
    # and any leading part is a random sample; None unless asked for.
    features_ND: Tensor | None


def extract(
    images: ImageSet, extractor: Extractor, device: torch.device, batch_size: int, keep: bool
) -> Generator[int, None, Extracted]:
    """Yield the number of images done after each batch; return moments and, if `keep`, features.

    The set's digest is over the sorted digests of its pixels: order, names and container (folder,
    zip, npz) do not enter.
    """
    moments = Moments(extractor.dimensions)
    kept_ND = torch.empty(images.count, extractor.dimensions) if keep else None
    digests: list[bytes] = []
    for batch in _batches(images, extractor, batch_size):
        pixels = torch.from_numpy(np.stack([prepared for _, _, prepared in batch]))
        features_BD = extract_batch(extractor, pixels.to(device))
        _check(images, [name for name, _, _ in batch], features_BD, extractor)
        moments.add(features_BD)
        if kept_ND is not None:
            kept_ND[len(digests) : len(digests) + len(batch)] = features_BD
        digests += [digest for _, digest, _ in batch]
        yield len(digests)
    mu_D, sigma_DD = moments.finish()
    statistics = Statistics(
        mu_D=mu_D,
        sigma_DD=sigma_DD,
        digest=hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        extractor=extractor.name,
        resize=extractor.resize,
        count=len(digests),
        size=images.size,
    )
    if kept_ND is not None:
        order = sorted(range(len(digests)), key=digests.__getitem__)
        kept_ND = kept_ND[torch.tensor(order)]
    return Extracted(statistics, kept_ND)


def _batches(images: ImageSet, extractor: Extractor, batch_size: int) -> Iterator[list[Prepared]]:
    """Prepared images in reading order; decoding runs ahead by two batches at most."""

    def prepare(name: str, raw: Raw) -> Prepared:
        pixels = decode(images, name, raw)
        return name, pixel_digest(pixels), extractor.prepare(pixels)

    pool = ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1)))
    waiting: deque[Future[Prepared]] = deque()
    try:
        batch: list[Prepared] = []
        source = read_raw(images)
        more = True
        while more or waiting:
            while more and len(waiting) < 2 * batch_size:
                item = next(source, None)
                if item is None:
                    more = False
                else:
                    waiting.append(pool.submit(prepare, *item))
            if waiting:
                batch.append(waiting.popleft().result())
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _check(images: ImageSet, names: list[str], features_BD: Tensor, extractor: Extractor) -> None:
    if features_BD.shape[1] != extractor.dimensions:
        raise MdtError(
            f"the extractor gave {features_BD.shape[1]} features, expected {extractor.dimensions}",
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
