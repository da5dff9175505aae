"""What one evaluation works on: the request, the reference, and the choices between them.

Everything here is decided from headers, before the first image is decoded.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.config.evaluation import (
    EXTRACTORS,
    FACTS,
    RESIZES,
    ExtractorName,
    MetricName,
    ResizeName,
    facts_of,
    that_need,
)
from mdt_cli.errors import MdtError
from mdt_cli.images.npz import keys
from mdt_cli.images.reading import EVERYTHING, Reading
from mdt_cli.images.sized import SizedSet, sized
from mdt_cli.metrics.extractors.weights import cached_inception
from mdt_cli.metrics.statistics import (
    Statistics,
    has_statistics,
    load_spatial,
    load_statistics,
)
from mdt_cli.services.events import Event, Note

PAGE = ".html"


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
    size: int | None = None  # crop every image to a square of this side
    # Further sets to score against the same reference, side by side with `samples`.
    others: tuple[Path, ...] = ()
    reading: Reading = EVERYTHING  # of the reference
    samples_reading: Reading = EVERYTHING


@dataclass(frozen=True)
class Reference:
    """What the reference offers: images, stored statistics, or both (ADM's files)."""

    path: Path
    images: SizedSet | None
    statistics: Statistics | None  # that serve for the distances
    spatial: Statistics | None = None  # those of sFID
    stored: Statistics | None = None  # what the file holds, whether it serves or not

    @property
    def count(self) -> int | None:
        """How many images stand behind it, where that is known."""
        if self.statistics is not None:
            return self.statistics.count
        return self.images.count if self.images else None


def default_report(request: EvaluateRequest) -> Path:
    """`report.json` in a folder of samples, `NAME.report.json` beside a file.

    Of several sets: `comparison.json` in the current folder.
    """
    if request.others:
        return Path("comparison.json")
    if request.samples.is_dir():
        return request.samples / "report.json"
    return request.samples.with_name(request.samples.stem + ".report.json")


def page_of(report: Path) -> Path:
    """The page beside a report. MdtError where both would be one file."""
    if report.suffix.lower() == PAGE:
        raise MdtError(
            f"--out {report} is the name of the page, which is written beside the report",
            f"name the report: --out {report.with_suffix('.json')}",
        )
    return report.with_suffix(PAGE)


def open_reference(path: Path, crop: int | None = None, reading: Reading = EVERYTHING) -> Reference:
    """Images, stored statistics, or both; `crop` is the side of `--size`, for images alone."""
    if not has_statistics(path):
        return Reference(path, sized(open_images(path, reading), crop), None)
    if reading.options:
        raise MdtError(
            f"{' and '.join(reading.options)} cannot be used for {path}, which holds statistics",
            f"leave out {' and '.join(reading.options)}",
        )
    images = sized(open_images(path)) if "arr_0" in keys(path) else None
    if images is not None and crop is not None and images.size != (crop, crop):
        raise MdtError(
            f"{path} holds statistics of {times(images.size)} images, which --size {crop} "
            "cannot crop",
            f"give the reference images themselves, or leave --size {crop} out",
        )
    stored = load_statistics(path)
    return Reference(path, images, stored, load_spatial(path), stored)


def choose_extractor(
    request: EvaluateRequest, reference: Reference
) -> Generator[Event, None, ExtractorName | Path]:
    """The one asked for, else the reference's own, else the best whose weights are here."""
    made_with = reference.statistics.extractor if reference.statistics else None
    if request.weights is not None:
        _check_weights(request)
    if request.extractor is not None:
        # Before anybody fetches weights for nothing; a module's name is known once it is loaded.
        if made_with and isinstance(request.extractor, str) and reference.images is None:
            _check_same_network(request.extractor, made_with, reference.path)
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
                f"{reference.path} was computed with {made_with}, a module in a file",
                "pass that module with --extractor FILE, or give the reference images",
            )
        # Statistics made elsewhere are Inception's: nothing else can be compared with them.
        return "inception"
    if cached_inception() is not None:
        return "inception"
    yield Note(
        "Inception weights not found; falling back to efficientnet-lite0. Use these scores to "
        "compare your own models only, not with published FID (--extractor inception downloads the "
        "weights, --weights FILE names them)"
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
            "name the extractor: --extractor dinov2 or --extractor clip",
        )


def _check_same_network(asked: str, made_with: str, path: Path) -> None:
    # A DINOv2 or CLIP of unpublished size has more in its name.
    if asked != made_with and not made_with.startswith(f"{asked}-"):
        raise MdtError(
            f"{path} was computed with {made_with}, but the extractor is {asked}",
            f"use --extractor {made_with}, or give the reference images",
        )


def choose_resize(
    request: EvaluateRequest, extractor: ExtractorName | Path, reference: Reference
) -> str:
    """The resize mode asked for, else the one that the reference records, else `clean`."""
    if extractor != "inception":
        if request.resize not in (None, "clean"):
            raise MdtError(
                f"--resize {request.resize} belongs to the Inception graph, not to {extractor}",
                "leave --resize out"
                if reference.statistics and reference.statistics.extractor == extractor
                else "leave --resize out, or use --extractor inception",
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
        only_of = facts_of(metric).only_of
        if only_of and network not in only_of:
            raise MdtError(
                f"{metric} is defined only for {' and '.join(only_of)}, "
                f"but the extractor is {extractor}",
                f"leave {metric} out of --metrics, or use --extractor {only_of[0]}",
            )
    offered = [facts.name for facts in FACTS if not facts.only_of or network in facts.only_of]
    stored = reference.statistics is not None
    if stored and network == "inception" and reference.spatial is None:
        if "sfid" in (asked or ()):
            raise MdtError(
                f"{reference.path} holds mu and sigma, but not the mu_s and sigma_s of sfid",
                "give the reference images, or leave sfid out of --metrics",
            )
        offered.remove("sfid")
    if reference.images is None:
        lacking = that_need("reference", tuple(offered))
        impossible = [name for name in asked or () if name in lacking]
        if impossible:
            raise MdtError(
                f"{', '.join(impossible)} need the images of the reference, "
                f"but {reference.path} holds only their mean and covariance",
                "give the reference images, or ask for --metrics fid",
            )
        offered = [name for name in offered if name not in lacking]
    wanted = asked or tuple(facts.name for facts in FACTS if facts.default)
    chosen = tuple(name for name in offered if name in wanted)
    if reference.images is None and asked is None:
        yield Note(f"{reference.path} holds statistics only; computed: {', '.join(chosen)}")
    return chosen


def times(size: tuple[int, int]) -> str:
    """`WIDTHxHEIGHT` of a (height, width), as messages have it."""
    height, width = size
    return f"{width}x{height}"
