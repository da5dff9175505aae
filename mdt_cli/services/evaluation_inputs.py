"""What one evaluation works on: the request, the reference, and the choices between them.

Everything here is decided from headers, before the first image is decoded.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from mdt_cli.config.evaluation import (
    DEFAULT_METRICS,
    EXTRACTORS,
    FRECHET,
    METRICS,
    METRICS_OF_STATISTICS,
    ONLY_OF,
    RESIZES,
    ExtractorName,
    MetricName,
    ResizeName,
)
from mdt_cli.core.metrics.arrays import keys
from mdt_cli.core.metrics.features import Extractor
from mdt_cli.core.metrics.frechet import ENOUGH_PER_DIMENSION, fewest_for_limit
from mdt_cli.core.metrics.images import ImageSet, open_images
from mdt_cli.core.metrics.moments import (
    RULES_OF_OTHERS,
    Statistics,
    has_statistics,
    load_spatial,
    load_statistics,
)
from mdt_cli.core.metrics.weights import cached_inception
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Event, Note

# Kynkaanniemi et al. 2019 and Naeem et al. 2020: how far the balls of each pair of metrics reach.
NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5


@dataclass(frozen=True)
class EvaluateRequest:
    """What `mdt evaluate` was asked for; None means: choose what fits the inputs."""

    samples: Path
    reference: Path
    metrics: tuple[MetricName, ...] | None = None
    extractor: ExtractorName | Path | None = None
    weights: Path | None = None
    resize: ResizeName | None = None
    out: Path | None = None
    save_reference: Path | None = None
    batch_size: int | None = None
    device: str | None = None
    memory: int | None = None  # megabytes for blocks of distances
    # Further sets to score against the same reference, side by side with `samples`.
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What the reference offers: images, stored statistics, or both (ADM's files)."""

    path: Path
    images: ImageSet | None
    statistics: Statistics | None  # that serve for the distances
    spatial: Statistics | None = None  # those of sFID
    stored: Statistics | None = None  # what the file holds, whether it serves or not

    @property
    def count(self) -> int | None:
        """How many images stand behind it, where that is known."""
        if self.statistics is not None:
            return self.statistics.count
        return self.images.count if self.images else None


def check_statistics_file(request: EvaluateRequest) -> None:
    """What --save-reference names must be readable as a reference, and be another file."""
    file = request.save_reference
    if file is None:
        return
    if file.suffix.lower() != ".npz":
        raise MdtError(
            f"--save-reference {file}: statistics are kept in an npz", f"name it {file}.npz"
        )
    if file.resolve() == request.reference.resolve():
        raise MdtError(f"--save-reference {file} is the reference itself", "name another file")


def open_reference(path: Path) -> Reference:
    if not has_statistics(path):
        return Reference(path, open_images(path), None)
    images = open_images(path) if "arr_0" in keys(path) else None
    stored = load_statistics(path)
    return Reference(path, images, stored, load_spatial(path), stored)


def choose_extractor(
    request: EvaluateRequest, reference: Reference
) -> Generator[Event, None, ExtractorName | Path]:
    """The one asked for, else the one the reference was made with, else the one at hand."""
    made_with = reference.statistics.extractor if reference.statistics else None
    if request.weights is not None:
        _check_weights(request)
    if request.extractor is not None:
        return request.extractor
    if request.weights is not None:
        return "inception"
    for name in EXTRACTORS:
        # Another size of a network bears its digest after the name.
        if made_with is not None and (made_with == name or made_with.startswith(name + "-")):
            return name
    if reference.statistics is not None and reference.images is None:
        if made_with is not None:
            raise MdtError(
                f"{reference.path} was made with {made_with}, a module of its maker",
                "give that module with --extractor FILE, or the reference images",
            )
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


def _check_weights(request: EvaluateRequest) -> None:
    if request.extractor == "efficientnet-lite0" or isinstance(request.extractor, Path):
        raise MdtError(
            "--weights names an Inception file or a folder of DINOv2 or CLIP, "
            f"but --extractor is {request.extractor}",
            "leave one of the two out",
        )
    if request.extractor is None and request.weights is not None and request.weights.is_dir():
        raise MdtError(
            f"{request.weights} is a folder; the weights of Inception are a file",
            "say whose weights they are: --extractor dinov2 or --extractor clip",
        )


def choose_resize(
    request: EvaluateRequest, extractor: ExtractorName | Path, reference: Reference
) -> str:
    if extractor != "inception":
        if request.resize not in (None, "clean"):
            raise MdtError(
                f"--resize {request.resize} belongs to the Inception graph, not to {extractor}",
                "leave --resize out, or use --extractor inception",
            )
        return "clean"
    made_with = reference.statistics.resize if reference.statistics else None
    return request.resize or (made_with if made_with in RESIZES else None) or "clean"


def choose_metrics(
    request: EvaluateRequest, reference: Reference, extractor: ExtractorName | Path
) -> Generator[Event, None, tuple[MetricName, ...]]:
    """In the order of the table, once each; what extractor or reference lack is refused."""
    asked = request.metrics
    network = extractor if isinstance(extractor, str) else None
    for metric in asked or ():
        if metric in ONLY_OF and network not in ONLY_OF[metric]:
            raise MdtError(
                f"{metric} is defined only for {' and '.join(ONLY_OF[metric])}, "
                f"but the extractor is {extractor}",
                f"leave {metric} out of --metrics, or use --extractor {ONLY_OF[metric][0]}",
            )
    offered = [name for name in METRICS if name not in ONLY_OF or network in ONLY_OF[name]]
    stored = reference.statistics is not None
    if stored and network == "inception" and reference.spatial is None:
        if "sfid" in (asked or ()):
            raise MdtError(
                f"{reference.path} holds mu and sigma, but not the mu_s and sigma_s of sfid",
                "give the reference images, or leave sfid out of --metrics",
            )
        offered.remove("sfid")
    if reference.images is None:
        lacking = [name for name in offered if name not in METRICS_OF_STATISTICS]
        impossible = [name for name in asked or () if name in lacking]
        if impossible:
            raise MdtError(
                f"{', '.join(impossible)} need the images of the reference, "
                f"but {reference.path} holds only their mean and covariance",
                "give the reference images, or ask for --metrics fid",
            )
        offered = [name for name in offered if name not in lacking]
    chosen = tuple(name for name in offered if name in (asked or DEFAULT_METRICS))
    if reference.images is None and asked is None:
        yield Note(f"{reference.path} holds statistics only; computed: {', '.join(chosen)}")
    return chosen


def usable_statistics(
    reference: Reference,
    extractor: str,
    resize: str,
    metrics: tuple[MetricName, ...],
    request: EvaluateRequest,
) -> Reference:
    """The reference with its statistics checked, or without them where its images serve."""
    held = reference.statistics
    if held is None:
        return reference
    without = replace(reference, statistics=None, spatial=None)
    if reference.images is not None and extractor != "inception":
        # Stored beside images are always Inception's; another extractor sees the images itself.
        return without
    if request.save_reference is not None:
        raise MdtError(
            f"{reference.path} already holds statistics: there is nothing to save",
            "--save-reference takes a reference of images alone",
        )
    made_with = "legacy_tensorflow" if held.adm else held.resize
    if not FRECHET & set(metrics):
        if held.adm and request.resize is None:
            raise MdtError(
                f"{reference.path} has the arrays of ADM's files, whose tables resize by "
                f"{made_with}, but samples would be resized by {resize}",
                f"use --resize {made_with}, or say --resize {resize}",
            )
        return reference if reference.images is None else without
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
    if made_with is None and extractor == "inception" and request.resize is None:
        raise MdtError(
            f"{reference.path} does not say which resizing made it, and each gives another FID",
            RULES_OF_OTHERS,
        )
    if made_with is not None and made_with != resize:
        raise MdtError(
            f"{reference.path} was made with {made_with} resizing, but samples would be "
            f"resized by {resize}",
            f"use --resize {made_with}"
            if made_with in RESIZES and extractor == "inception"
            else "make it again with --save-reference",
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
        for names, fewest in (
            (("precision", "recall"), NEIGHBOURS + 1),
            (("density", "coverage"), DENSITY_NEIGHBOURS + 1),
        ):
            if set(names) & set(metrics) and images.count < fewest:
                raise MdtError(
                    f"{images.path} holds {images.count} images; {' and '.join(names)} need at "
                    f"least {fewest}",
                    "give more images, or ask for --metrics fid,is,kid",
                )


def check_dimensions(reference: Reference, extractor: Extractor) -> None:
    """Stored statistics must be of the extractor's feature space."""
    for held, expected, what in (
        (reference.statistics, extractor.dimensions, "features"),
        (reference.spatial if extractor.spatial else None, extractor.spatial, "spatial features"),
    ):
        if held is not None and len(held.mu_D) != expected:
            raise MdtError(
                f"{reference.path} has statistics of {len(held.mu_D)} {what}, "
                f"but {extractor.name} gives {expected}",
                "give statistics made with this extractor, or the reference images",
            )


def check_limit(sets: list[ImageSet], metrics: tuple[MetricName, ...], dimensions: int) -> None:
    """Whether `fid_infinity` has samples enough for so many features."""
    fewest = fewest_for_limit(dimensions)
    for samples in sets:
        if "fid_infinity" in metrics and samples.count < fewest:
            raise MdtError(
                f"{samples.path} holds {samples.count:,} images; fid_infinity over {dimensions:,} "
                f"features needs {fewest:,}, better {ENOUGH_PER_DIMENSION * dimensions:,}",
                "give more samples, or leave fid_infinity out of --metrics",
            )


def times(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
