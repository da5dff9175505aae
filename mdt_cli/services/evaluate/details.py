"""What stands behind the numbers: scores of each class, and the nearest neighbours."""

from collections.abc import Mapping
from typing import Any

import torch

from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.memorisation import SUSPECT, memorisation
from mdt_cli.metrics.per_class import ROWS_PER_DIMENSION, class_scores, matched

PAIRS = 32
# Distances to so many pairs of images take a minute or two; beyond, a part of the reference serves.
MOST_DISTANCES = 500_000_000


def class_section(
    samples: SizedSet,
    of_samples: Extracted,
    reference: SizedSet,
    of_reference: Extracted,
    extractor: str,
    device: torch.device,
) -> dict[str, Any] | None:
    """`classes` of the report; None where one of the sets has no classes, or others."""
    if of_samples.features_ND is None or of_reference.features_ND is None:
        return None
    both = matched(samples.classes, reference.classes)
    if both is None:
        return None
    ours, theirs = both
    used, count = len(of_reference.features_ND), reference.count
    found = class_scores(
        of_samples.features_ND,
        [ours[k] for k in of_samples.positions_N.tolist()],
        of_reference.features_ND,
        [theirs[k] for k in of_reference.positions_N[:used].tolist()],
        device,
    )
    what = {
        "frechet": "Fréchet distance between the samples and the reference images of each class",
        "kernel": "kernel distance (unbiased, cubic) of each class, because some class has fewer "
        f"than {ROWS_PER_DIMENSION} x {of_samples.features_ND.shape[1]} images; small differences "
        "between classes are noise",
    }[found.rule]
    part = "" if used == count else f", {used:,} of {count:,} reference images"
    return {
        "rule": f"{what}, on features of {extractor}{part}",
        "names": {
            "samples": dict(zip(ours, samples.classes or (), strict=True)),
            "reference": dict(zip(theirs, reference.classes or (), strict=True)),
        },
        "scores": [
            {
                "name": score.name,
                "value": score.value,
                "standard_error": score.standard_error,
                "samples": score.samples,
                "reference": score.reference,
            }
            for score in found.scores
        ],
    }


def missing_classes(section: Mapping[str, Any]) -> list[str]:
    """Classes of the reference that no sample has."""
    names = section["names"]
    return sorted(names["reference"].keys() - names["samples"].keys())


def nearest_section(
    of_samples: Extracted,
    of_reference: Extracted,
    extractor: str,
    device: torch.device,
    memory: int,
) -> dict[str, Any] | None:
    """`nearest` of the report: pairs by their places in reading order, the closest first."""
    samples_ND, reference_MD = of_samples.features_ND, of_reference.features_ND
    if samples_ND is None or reference_MD is None or len(reference_MD) < 2:
        return None
    most = max(2, MOST_DISTANCES // len(samples_ND))
    part_MD = reference_MD[:most]
    found = memorisation(
        samples_ND,
        part_MD,
        of_samples.digests,
        of_reference.digests,
        pairs=PAIRS,
        device=device,
        memory=memory,
    )
    count = of_reference.statistics.count or len(reference_MD)
    among = f"all {count:,}" if len(part_MD) == count else f"{len(part_MD):,}"
    return {
        "identical": found.identical,
        "suspect_share": found.share,
        "suspect_distance": found.threshold,
        "note": (
            f"{found.identical:,} of {len(samples_ND):,} samples are pixel for pixel a reference "
            f"image. {found.share:.1%} lie nearer to one than {1 - SUSPECT:.0%} of the distinct "
            f"reference images do to each other ({SUSPECT:.0%} is what new images of the same kind "
            f"give). Euclidean distance of {extractor} features, {among} reference images."
        ),
        "closest": [
            {
                "sample": int(of_samples.positions_N[pair.sample]),
                "reference": int(of_reference.positions_N[pair.reference]),
                "distance": pair.distance,
            }
            for pair in found.closest
        ],
    }
