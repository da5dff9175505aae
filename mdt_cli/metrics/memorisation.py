"""Did the model memorise its training images? Samples beside their nearest neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.metrics.features import Entry, Features, present, share_entry
from mdt_cli.metrics.neighbours import MEMORY, nearest

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# A sample is suspect where it lies nearer to a training image than all but this share of the
# training images lie to one another.
SUSPECT = 0.01


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training image, as rows of their features."""

    sample: int
    reference: int
    distance: float


@dataclass(frozen=True)
class Memorisation:
    """Nearest-neighbour distances of samples among training images, and of those among themselves.

    `share` is of suspect samples; about `SUSPECT` is what fresh images of the same kind give.
    """

    share: float
    identical: int  # samples whose pixels are a training image's
    threshold: float
    sample_quantiles: tuple[float, ...]  # at QUANTILES
    train_quantiles: tuple[float, ...]
    closest: tuple[Pair, ...]  # nearest first


def memorisation(
    samples_ND: Tensor,
    reference_MD: Tensor,
    sample_digests: Sequence[bytes] = (),
    reference_digests: Sequence[bytes] = (),
    pairs: int = 32,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> Memorisation:
    """Euclidean distances in feature space; copies are also found by the digests of the pixels.

    The reference needs 2 rows; it may have more digests than rows. Training images that
    occur twice count once among themselves: otherwise their distance 0 would hide all near ones.
    Each pair has a sample of its own; a training image may be in several.
    """
    found = nearest(samples_ND, reference_MD, 1, device, memory)
    distance_N, index_N = found.distances_NK[:, 0], found.indices_NK[:, 0]
    row_of = {digest: row for row, digest in reversed(list(enumerate(reference_digests)))}
    for row, digest in enumerate(sample_digests):
        if digest in row_of:
            distance_N[row], index_N[row] = 0.0, row_of[digest]
    train_M = _distances_among(_distinct(reference_MD, reference_digests), device, memory)
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    threshold = train_M.quantile(SUSPECT).item()
    order = distance_N.argsort(stable=True)[:pairs].tolist()
    return Memorisation(
        share=(distance_N <= threshold).double().mean().item(),
        identical=sum(digest in row_of for digest in sample_digests),
        threshold=threshold,
        sample_quantiles=tuple(_quantiles(distance_N, at)),
        train_quantiles=tuple(_quantiles(train_M, at)),
        closest=tuple(Pair(row, int(index_N[row].item()), distance_N[row].item()) for row in order),
    )


def _distinct(rows_MD: Tensor, digests: Sequence[bytes]) -> Tensor:
    """Each image once: by its pixels where their digests are known, else by its features."""
    if not digests:
        return rows_MD.unique(dim=0)
    first = {digest: row for row, digest in reversed(list(enumerate(digests[: len(rows_MD)])))}
    return rows_MD[sorted(first.values())]


def _distances_among(rows_MD: Tensor, device: torch.device | None, memory: int) -> Tensor:
    """From each row to the nearest other one; 0 where there is only one."""
    if len(rows_MD) < 2:
        return torch.zeros(1, dtype=torch.float64)
    return nearest(rows_MD, rows_MD, 1, device, memory, own=True).distances_NK[:, 0]


def _quantiles(values_N: Tensor, at: Tensor) -> list[float]:
    return [float(value) for value in values_N.quantile(at).tolist()]


def memorised(features: Features) -> dict[str, Entry]:
    """`memorisation`: the share of samples that lie suspiciously near to a reference image."""
    samples_ND = present(features.samples.rows_ND, "features of the samples")
    reference_MD = present(features.reference.rows_ND, "features of the reference")
    reference_MD = reference_MD[: features.limits.kernel]
    digests = features.samples.digests, features.reference.digests
    found = memorisation(samples_ND, reference_MD, *digests, 0, features.device, features.memory)
    n, m = len(samples_ND), len(reference_MD)
    return {
        "memorisation": {
            **share_entry(found.share, "threshold held fixed", (n, m), n),
            "rule": "share of samples nearer to a reference image than all but "
            f"{SUSPECT:.0%} of the distinct reference images are to one another, "
            "about what new images give",
            "identical": found.identical,
            "threshold": found.threshold,
            "quantiles": {
                "at": list(QUANTILES),
                "sample_to_reference": list(found.sample_quantiles),
                "reference_to_reference": list(found.train_quantiles),
            },
        }
    }
