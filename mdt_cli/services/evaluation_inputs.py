"""What one evaluation works on: the request, the reference, and the choices between them.

Everything here is decided from headers, before the first image is decoded.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from mdt_cli.config.evaluation import (
    METRICS,
    METRICS_OF_STATISTICS,
    ExtractorName,
    MetricName,
    ResizeName,
)
from mdt_cli.core.metrics.arrays import keys
from mdt_cli.core.metrics.features import Extractor
from mdt_cli.core.metrics.images import ImageSet, open_images
from mdt_cli.core.metrics.moments import Statistics, has_statistics, load_statistics
from mdt_cli.core.metrics.weights import cached_inception
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Event, Note

NEIGHBOURS = 3


@dataclass(frozen=True)
class EvaluateRequest:
    """What `mdt evaluate` was asked for; None means: choose what fits the inputs."""

    samples: Path
    reference: Path
    metrics: tuple[MetricName, ...] | None = None
    extractor: ExtractorName | None = None
    weights: Path | None = None
    resize: ResizeName | None = None
    out: Path | None = None
    save_reference: Path | None = None
    batch_size: int | None = None
    device: str | None = None
    # Further sets to score against the same reference, side by side with `samples`.
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What the reference offers: images, stored statistics, or both (ADM's files)."""

    path: Path
    images: ImageSet | None
    statistics: Statistics | None

    @property
    def count(self) -> int | None:
        """How many images stand behind it, where that is known."""
        if self.statistics is not None:
            return self.statistics.count
        return self.images.count if self.images else None


def open_reference(path: Path) -> Reference:
    if not has_statistics(path):
        return Reference(path, open_images(path), None)
    images = open_images(path) if "arr_0" in keys(path) else None
    return Reference(path, images, load_statistics(path))


def choose_extractor(
    request: EvaluateRequest, reference: Reference
) -> Generator[Event, None, ExtractorName]:
    """The one asked for, else the one the reference was made with, else the one at hand."""
    made_with = reference.statistics.extractor if reference.statistics else None
    if request.weights is not None and request.extractor == "efficientnet-lite0":
        raise MdtError(
            "--weights names an Inception file, but --extractor is efficientnet-lite0",
            "leave one of the two out",
        )
    if request.extractor is not None:
        return request.extractor
    if request.weights is not None or made_with == "inception":
        return "inception"
    if made_with == "efficientnet-lite0":
        return "efficientnet-lite0"
    if reference.statistics is not None and reference.images is None:
        # Statistics made elsewhere are Inception's: nothing else can be compared with them.
        return "inception"
    if cached_inception() is not None:
        return "inception"
    yield Note(
        "the Inception weights are not at hand, so efficientnet-lite0 is the extractor: its "
        "numbers rank your own models, but are not comparable with published FID "
        "(--extractor inception fetches the weights, --weights FILE names them)"
    )
    return "efficientnet-lite0"


def choose_resize(
    request: EvaluateRequest, extractor: ExtractorName, reference: Reference
) -> ResizeName:
    if extractor != "inception":
        if request.resize not in (None, "clean"):
            raise MdtError(
                f"--resize {request.resize} belongs to the Inception graph, not to {extractor}",
                "leave --resize out, or use --extractor inception",
            )
        return "clean"
    made_with = reference.statistics.resize if reference.statistics else None
    if request.resize is None and made_with == "legacy_tensorflow":
        return "legacy_tensorflow"
    return request.resize or "clean"


def choose_metrics(
    request: EvaluateRequest, reference: Reference
) -> Generator[Event, None, tuple[MetricName, ...]]:
    """In the order of the table, once each; what needs images is refused on bare statistics."""
    if reference.images is not None:
        asked = request.metrics or METRICS
        return tuple(metric for metric in METRICS if metric in asked)
    if request.metrics is None:
        yield Note(f"{reference.path} holds statistics only: fid and is are computed")
        return METRICS_OF_STATISTICS
    impossible = [name for name in request.metrics if name not in METRICS_OF_STATISTICS]
    if impossible:
        raise MdtError(
            f"{', '.join(impossible)} need the images of the reference, "
            f"but {reference.path} holds only their mean and covariance",
            "give the reference images, or ask for --metrics fid",
        )
    return tuple(metric for metric in METRICS if metric in request.metrics)


def usable_statistics(
    reference: Reference, extractor: str, resize: str, metrics: tuple[MetricName, ...]
) -> Reference:
    """The reference with its statistics checked, or without them where its images serve."""
    held = reference.statistics
    if held is None or "fid" not in metrics:
        return reference if reference.images is None else replace(reference, statistics=None)
    if reference.images is not None and extractor != "inception":
        # Stored beside images are always Inception's; another extractor sees the images itself.
        return replace(reference, statistics=None)
    if held.extractor is not None and held.extractor != extractor:
        raise MdtError(
            f"{reference.path} was made with {held.extractor}, but the extractor is {extractor}",
            f"use --extractor {held.extractor}, or give the reference images",
        )
    if held.extractor is None and extractor != "inception":
        raise MdtError(
            f"{reference.path} does not say how it was made, so it can only be Inception's",
            "use --extractor inception, or give the reference images",
        )
    made_with = "legacy_tensorflow" if held.adm else held.resize
    if made_with is not None and made_with != resize:
        raise MdtError(
            f"{reference.path} was made with {made_with} resizing, but samples would be "
            f"resized by {resize}",
            f"use --resize {made_with}",
        )
    return reference


def check_sets(
    samples: ImageSet,
    reference: Reference,
    metrics: tuple[MetricName, ...],
    request: EvaluateRequest,
) -> None:
    size = reference.images.size if reference.images else None
    if size is None and reference.statistics is not None:
        size = reference.statistics.size
    if size is not None and size != samples.size:
        raise MdtError(
            f"{samples.path} holds {times(samples.size)} images, "
            f"but {reference.path} is of {times(size)}",
            "bring both to one size first; a score would measure the difference in resolution",
        )
    for images in (samples, reference.images):
        if images is None:
            continue
        if images.count < 2:
            raise MdtError(
                f"{images.path} holds {images.count} image; no metric is defined below 2",
                "give more images",
            )
        if {"precision", "recall"} & set(metrics) and images.count <= NEIGHBOURS:
            raise MdtError(
                f"{images.path} holds {images.count} images; precision and recall need at "
                f"least {NEIGHBOURS + 1}",
                "give more images, or ask for --metrics fid,is,kid",
            )
    if request.save_reference is not None and reference.images is None:
        raise MdtError(
            f"{reference.path} already holds statistics: there is nothing to save",
            "--save-reference takes a reference of images",
        )


def check_dimensions(reference: Reference, extractor: Extractor) -> None:
    """Stored statistics must be of the extractor's feature space."""
    held = reference.statistics
    if held is not None and len(held.mu_D) != extractor.dimensions:
        raise MdtError(
            f"{reference.path} has statistics of {len(held.mu_D)} features, "
            f"but {extractor.name} gives {extractor.dimensions}",
            "give statistics made with this extractor, or the reference images",
        )


def times(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
