"""What one evaluation has of both sides, and how it comes to the metrics."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mdt_cli.config.evaluation import MetricName, that_need
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.features import PUBLISHED, Features, Gaussian, side_of
from mdt_cli.metrics.statistics import Statistics

# Rows of features are kept for the error of a distance up to this many bytes.
KEPT_BYTES = 2 << 30


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


def keeps_features(metrics: tuple[MetricName, ...], count: int, width: int) -> bool:
    """Whether the samples' rows stay in memory: a metric needs them, or their error may."""
    return bool(that_need("samples", metrics)) or 4 * count * width <= KEPT_BYTES


def features_of(scored: Scored, device: torch.device, memory: int) -> Features:
    """Both sides, with stored statistics of the reference in place of those of its images."""
    reference = side_of(scored.of_reference)
    if scored.statistics is not None:
        reference = replace(reference, pooled=Gaussian(scored.statistics))
    if scored.spatial is not None:
        reference = replace(reference, spatial=Gaussian(scored.spatial))
    return Features(
        samples=side_of(scored.of_samples),
        reference=reference,
        head_CD=scored.extractor.head_CD,
        bias_C=scored.extractor.bias_C,
        device=device,
        memory=memory,
        limits=PUBLISHED,
    )
