"""The metrics of one evaluation: each value with its error and the rule that made it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdt_cli.config.evaluation import MetricName
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics import kernel
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.frechet import (
    ENOUGH_PER_DIMENSION,
    frechet_distance,
    frechet_infinity,
    frechet_with_error,
)
from mdt_cli.metrics.inception_score import SPLIT, inception_score
from mdt_cli.metrics.intervals import Score, interval, share_error, share_interval
from mdt_cli.metrics.memorisation import QUANTILES, SUSPECT, memorisation
from mdt_cli.metrics.neighbours import MEMORY
from mdt_cli.metrics.precision_recall import density_coverage, precision_recall
from mdt_cli.metrics.registry import DENSITY_NEIGHBOURS, NEIGHBOURS
from mdt_cli.metrics.statistics import Statistics

# Dhariwal & Nichol 2021 and its followers hold 10,000 reference images for precision and recall;
# Naeem et al. 2020 take as many on both sides for density and coverage.
REFERENCE_LIMIT = 10_000
# Pairs grow with the square: of a larger reference a part that is as large as published sets. No
# metric takes more rows of the reference, so no more of them are kept.
KERNEL_LIMIT = 50_000
# Rows of features are kept for the error of a distance up to this many bytes.
KEPT_BYTES = 2 << 30
FIXED = "balls held fixed"
OVER_REFERENCE = f"over the reference images, {FIXED}"
NEEDS_FEATURES = frozenset({"is", "fid_infinity"})
NEEDS_BOTH_FEATURES = frozenset(
    {"precision", "recall", "density", "coverage", "kid", "cmmd", "memorisation"}
)


@dataclass(frozen=True)
class Scored:
    """Everything the metrics and the report are made of."""

    samples: SizedSet
    of_samples: Extracted
    reference_path: Path
    reference_images: SizedSet | None
    of_reference: Extracted | None
    statistics: Statistics | None  # stored ones, where they serve for the Fréchet distance
    extractor: Extractor
    device: str
    spatial: Statistics | None = None  # stored ones of sFID
    stored: Statistics | None = None  # what the reference's file holds, whether it serves or not

    @property
    def gaussian(self) -> Statistics:
        """The reference's mean and covariance."""
        if self.statistics is not None:
            return self.statistics
        if self.of_reference is None:
            raise ValueError("the reference was not extracted")
        return self.of_reference.statistics

    @property
    def spatial_gaussian(self) -> Statistics:
        """The same of the spatial features."""
        if self.spatial is not None:
            return self.spatial
        if self.of_reference is None or self.of_reference.spatial is None:
            raise ValueError("the reference has no spatial features")
        return self.of_reference.spatial


def keeps_features(metrics: tuple[MetricName, ...], count: int, width: int) -> bool:
    """Whether the samples' rows stay in memory: a metric needs them, or their error may."""
    needed = (NEEDS_FEATURES | NEEDS_BOTH_FEATURES) & set(metrics)
    return bool(needed) or 4 * count * width <= KEPT_BYTES


def compute(
    scored: Scored,
    metrics: tuple[MetricName, ...],
    device: torch.device,
    memory: int = MEMORY,
) -> dict[MetricName, dict[str, Any]]:
    """Each metric's value with its 95 % interval; `memory` bounds blocks of distances, in bytes."""
    shares: dict[str, dict[str, Any]] = {}
    if {"precision", "recall"} & set(metrics):
        shares |= _manifold(scored, device, memory)
    if {"density", "coverage"} & set(metrics):
        shares |= _balls(scored, device, memory)
    ways: dict[MetricName, Callable[[], dict[str, Any]]] = {
        "fid": lambda: _frechet(scored),
        "sfid": lambda: _spatial_frechet(scored),
        "is": lambda: _inception_score(scored),
        "precision": lambda: shares["precision"],
        "recall": lambda: shares["recall"],
        "density": lambda: shares["density"],
        "coverage": lambda: shares["coverage"],
        "kid": lambda: _kernel(scored, device),
        "cmmd": lambda: _clip(scored, device),
        "memorisation": lambda: _memorisation(scored, device, memory),
        "fid_infinity": lambda: _limit(scored),
    }
    return {metric: ways[metric]() for metric in metrics}


def _entry(
    value: float, error: float | None, error_rule: str | None, samples: int, reference: int | None
) -> dict[str, Any]:
    """What every metric tells."""
    held = interval(Score(value, error))
    return {
        "value": value,
        "standard_error": error,
        "interval": list(held) if held is not None else None,
        "interval_rule": f"95 %, {error_rule}" if held is not None else None,
        "samples": samples,
        "reference": reference,
    }


def _share(
    share: float, rule: str, counts: tuple[int, int], of: int, samples_error: float | None = None
) -> dict[str, Any]:
    """A share of `of` images. `samples_error` where these are not the samples, but the reference.

    Then neither error bounds the other: the larger one decides comparisons.
    """
    error = share_error(share, of)
    entry = _entry(share, error, f"Wilson, {rule}", *counts) | {
        "interval": list(share_interval(share, of))
    }
    if samples_error is not None:
        entry["standard_error_of_samples"] = max(error, samples_error)
    return entry


def _frechet(scored: Scored) -> dict[str, Any]:
    ours, theirs = scored.of_samples, scored.of_reference
    whole = theirs is not None and theirs.is_whole and scored.statistics is None
    rows_MD = theirs.features_ND if theirs and whole else None
    return _distance(ours.statistics, ours.features_ND, scored.gaussian, rows_MD)


def _spatial_frechet(scored: Scored) -> dict[str, Any]:
    theirs = scored.of_reference.spatial_NS if scored.of_reference else None
    ours = scored.of_samples
    if ours.spatial is None:
        raise ValueError("the samples have no spatial features")
    entry = _distance(
        ours.spatial, ours.spatial_NS, scored.spatial_gaussian, None if scored.spatial else theirs
    )
    layer = "first 7 channels of the 17 x 17 map mixed_6/conv, 2,023 features (Nash et al. 2021)"
    return {**entry, "rule": layer}


def _distance(
    ours: Statistics,
    rows_ND: torch.Tensor | None,
    theirs: Statistics,
    rows_MD: torch.Tensor | None,
) -> dict[str, Any]:
    gaussians = (ours.mu_D, ours.sigma_DD, theirs.mu_D, theirs.sigma_DD)
    count = ours.count or 0
    error = None
    if rows_ND is None:
        value = frechet_distance(*gaussians)
    else:
        found = frechet_with_error(rows_ND, *gaussians, rows_MD)
        value, error = found.value, found.standard_error
    rule = (
        "infinitesimal jackknife over the samples, reference held fixed; up to 1.7 times too wide "
    )
    rule += "with no more samples than features or near distance 0"
    return {
        **_entry(value, error, rule, count, theirs.count),
        "bias": f"too high by a share that falls as 1 / N, here N = {count:,}; compare only with "
        "equal counts. The interval is about the spread, not about this",
    }


def _limit(scored: Scored) -> dict[str, Any]:
    theirs = scored.gaussian
    rows_ND = _features(scored.of_samples)
    found = frechet_infinity(rows_ND, theirs.mu_D, theirs.sigma_DD)
    rule = "infinitesimal jackknife over the samples, and the scatter about the line"
    enough = ENOUGH_PER_DIMENSION * rows_ND.shape[1]
    bias = f"too low by more than the interval tells, as the samples are fewer than {enough:,}"
    return {
        **_entry(found.value, found.standard_error, rule, len(rows_ND), theirs.count),
        **({"bias": bias} if len(rows_ND) < enough else {}),
        "rule": f"line in 1 / N through {len(found.sizes)} sizes (Chong & Forsyth 2020); the bias "
        "of the reference stays",
        "slope": found.slope,
        "fit_error": found.fit_error,
        "sizes": list(found.sizes),
        "distances": list(found.distances),
    }


def _inception_score(scored: Scored) -> dict[str, Any]:
    head_CD = scored.extractor.head_CD
    if head_CD is None:
        raise ValueError(f"{scored.extractor.name} has no classes")
    found = inception_score(_features(scored.of_samples), head_CD, scored.extractor.bias_C)
    rule = "infinitesimal jackknife over the samples"
    return {
        **_entry(found.value, found.standard_error, rule, scored.samples.count, None),
        "deviation": found.deviation,
        "splits": found.num_splits,
        "split_rule": f"max(1, N // {SPLIT}) equal parts, in an order set by the pixels' digests",
    }


def _manifold(scored: Scored, device: torch.device, memory: int) -> dict[str, dict[str, Any]]:
    samples_ND = _features(scored.of_samples)
    reference_MD = _features(scored.of_reference)[:REFERENCE_LIMIT]
    found = precision_recall(samples_ND, reference_MD, NEIGHBOURS, device, memory)
    n, m = len(samples_ND), len(reference_MD)
    recall = _share(found.recall, OVER_REFERENCE, (n, m), m, found.recall_error)
    return {
        "precision": {**_share(found.precision, FIXED, (n, m), n), "k": NEIGHBOURS},
        "recall": {**recall, "k": NEIGHBOURS},
    }


def _balls(scored: Scored, device: torch.device, memory: int) -> dict[str, dict[str, Any]]:
    samples_ND = _features(scored.of_samples)[:REFERENCE_LIMIT]
    reference_MD = _features(scored.of_reference)[:REFERENCE_LIMIT]
    found = density_coverage(samples_ND, reference_MD, DENSITY_NEIGHBOURS, device, memory)
    n, m = len(samples_ND), len(reference_MD)
    facts = {"k": DENSITY_NEIGHBOURS}
    return {
        "density": {**_entry(found.density, found.density_error, FIXED, n, m), **facts},
        "coverage": {
            **_share(found.coverage, OVER_REFERENCE, (n, m), m, found.coverage_error),
            **facts,
            "note": "rises with the number of samples: compare only with equal counts",
        },
    }


def _kernel(scored: Scored, device: torch.device) -> dict[str, Any]:
    samples_ND = _features(scored.of_samples)[:KERNEL_LIMIT]
    reference_MD = _features(scored.of_reference)[:KERNEL_LIMIT]
    found = kernel.kernel_distance(samples_ND, reference_MD, device)
    blocks = kernel.block_kernel_distance(samples_ND, reference_MD, device=device)
    n, m = len(samples_ND), len(reference_MD)
    return {
        **_entry(found.value, found.standard_error, "jackknife over both sets", n, m),
        "standard_error_of_samples": found.samples_error,
        "rule": "unbiased, cubic kernel, all pairs",
        "blocks": {
            "value": blocks.value,
            "standard_error": blocks.standard_error,
            "count": blocks.blocks,
            "size": blocks.size,
            "rule": "mean of unbiased estimates over disjoint blocks, as published tables",
        },
    }


def _clip(scored: Scored, device: torch.device) -> dict[str, Any]:
    samples_ND = _features(scored.of_samples)[:KERNEL_LIMIT]
    reference_MD = _features(scored.of_reference)[:KERNEL_LIMIT]
    found = kernel.clip_distance(samples_ND, reference_MD, device)
    n, m = len(samples_ND), len(reference_MD)
    return {
        **_entry(found.value, found.standard_error, "jackknife over both sets", n, m),
        "standard_error_of_samples": found.samples_error,
        "rule": "1,000 times the biased squared MMD, Gaussian kernel of width 10 "
        "(Jayasumana et al. 2024)",
    }


def _memorisation(scored: Scored, device: torch.device, memory: int) -> dict[str, Any]:
    samples_ND = _features(scored.of_samples)
    reference_MD = _features(scored.of_reference)[:KERNEL_LIMIT]
    of_reference = scored.of_reference
    digests = of_reference.digests if of_reference is not None else ()
    found = memorisation(
        samples_ND, reference_MD, scored.of_samples.digests, digests, 0, device, memory
    )
    n, m = len(samples_ND), len(reference_MD)
    return {
        **_share(found.share, "threshold held fixed", (n, m), n),
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


def _features(extracted: Extracted | None) -> torch.Tensor:
    if extracted is None or extracted.features_ND is None:
        raise ValueError("features were not kept")
    return extracted.features_ND
