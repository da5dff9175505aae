"""Score one set of images against another: features, metrics, and a report that can be trusted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.config.evaluation import (
    ExtractorName,
    MetricName,
    facts_of,
    that_compare_moments,
    that_need,
)
from mdt_cli.errors import MdtError
from mdt_cli.files import write_json
from mdt_cli.images.sized import sized
from mdt_cli.metrics.compute import compute
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.extractors.build import build_extractor
from mdt_cli.metrics.features import PUBLISHED
from mdt_cli.metrics.neighbours import MEMORY
from mdt_cli.metrics.statistics import save_statistics
from mdt_cli.services.evaluate.checks import (
    check_dimensions,
    check_limit,
    check_options,
    check_sets,
    first_words,
    same_size,
    usable_statistics,
)
from mdt_cli.services.evaluate.comparison import side_by_side
from mdt_cli.services.evaluate.compute import Scored, features_of, keeps_features
from mdt_cli.services.evaluate.details import (
    class_section,
    missing_classes,
    nearest_section,
)
from mdt_cli.services.evaluate.feature_shards import Shards
from mdt_cli.services.evaluate.figures import figures
from mdt_cli.services.evaluate.html import page_of, write_page
from mdt_cli.services.evaluate.report import report_of
from mdt_cli.services.evaluate.report_files import check_places, check_same_kind
from mdt_cli.services.evaluate.request import (
    EvaluateRequest,
    choose_extractor,
    choose_metrics,
    choose_resize,
    open_reference,
)
from mdt_cli.services.events import EvaluationDone, EvaluationShareDone, Event, Note, Warned
from mdt_cli.services.runtime import own_device
from mdt_cli.services.work import Share

__all__ = ["EvaluateRequest", "default_report", "evaluate", "score"]

# On a CPU larger batches only cost page faults: 64 takes twice the time of 4 per image.
CPU_BATCH, GPU_BATCH = 4, 64
WORK = ".work"


def evaluate(request: EvaluateRequest) -> Iterator[Event]:
    """Score each set of samples against `reference`; the last event is `EvaluationDone`.

    Everything that can be known from headers is checked before the first image is decoded. With
    several processes each extracts its share, and the first one scores and writes.
    """
    check_options(request)
    memory = request.memory << 20 if request.memory is not None else MEMORY
    target = request.out or default_report(request)
    page = page_of(target)
    if target.suffix == WORK:
        raise MdtError(
            f"--out {target} is the name of the folder for features", "name a file, as report.json"
        )
    sets = [sized(open_images(path), request.size) for path in (request.samples, *request.others)]
    reference = open_reference(request.reference, request.size)
    name = yield from choose_extractor(request, reference)
    resize = choose_resize(request, name, reference)
    metrics = yield from choose_metrics(request, reference, name)
    # Of the other networks the name, which bears their size, is known once they are loaded.
    named_early = name in ("inception", "efficientnet-lite0")
    if named_early:
        reference = usable_statistics(reference, str(name), resize, metrics, request)
    for samples in sets:
        check_sets(samples, reference, metrics, request)
    same_size(sets, reference)
    share = Share.from_environment()
    if share.rank == 0:
        check_places(target, page)

    device = own_device(request.device)
    batch_size = request.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    spatial = "sfid" in metrics or (name == "inception" and request.save_reference is not None)
    size = sets[0].size
    extractor = build_extractor(name, device, request.weights, resize, spatial, size)
    if not named_early:
        reference = usable_statistics(reference, extractor.name, extractor.resize, metrics, request)
    if share.rank == 0 and request.save_reference is not None:
        check_same_kind(request.save_reference, extractor.name, extractor.resize)
    check_dimensions(reference, extractor)
    check_limit(sets, metrics, extractor.dimensions)
    yield from first_words(sets, reference, extractor, metrics)

    keep_reference = bool(that_need("reference", metrics))
    needs_images = (
        keep_reference
        or request.save_reference is not None
        or (that_compare_moments(metrics) and reference.statistics is None)
    )
    of_reference: Extracted | None = None
    real = reference.images if needs_images else None
    jobs = [(real, "reference")] if real else []
    jobs += [(samples, "samples") for samples in sets]
    shards = Shards(
        target.with_suffix(WORK),
        share,
        extractor,
        device,
        batch_size,
        sum(images.count for images, _ in jobs),
    )
    for images, what in jobs:
        yield from shards.make(images, what)
    yield from shards.wait()
    if shards.share.rank:
        yield EvaluationShareDone(shards.share.rank, shards.share.of)
        return
    if real is not None:
        of_reference = yield from shards.merged(real, keep_reference, "reference", PUBLISHED.kernel)
        if request.save_reference is not None:
            save_statistics(request.save_reference, of_reference.statistics, of_reference.spatial)
            yield Note(f"statistics of the reference are in {request.save_reference}")
    names = [facts_of(metric).named_by(extractor.name) for metric in metrics]
    yield Note("computing " + ", ".join(names))
    reports, pictures = [], []
    for samples in sets:
        keep = keeps_features(metrics, samples.count, extractor.width)
        scored = Scored(
            samples=samples,
            of_samples=(yield from shards.merged(samples, keep, "samples")),
            reference_path=reference.path,
            reference_images=reference.images,
            of_reference=of_reference,
            statistics=reference.statistics,
            spatial=reference.spatial,
            stored=reference.stored,
            extractor=extractor,
            device=_device_name(device),
        )
        single = report_of(scored, compute(features_of(scored, device, memory), metrics))
        told = first_words([samples], reference, extractor, metrics)
        single["warnings"] = [event.text for event in told if isinstance(event, Warned)]
        if of_reference and of_reference.statistics.digest == scored.of_samples.statistics.digest:
            yield _noted(single, f"{samples.path} and the reference are the same images")
        yield from _add_details(single, scored, device, memory)
        reports.append(single)
        pictures.append(figures(single, samples, scored.of_samples, reference.images, of_reference))
    report = reports[0] if len(reports) == 1 else side_by_side(reports)
    write_json(target, report)
    write_page(page, report, pictures)
    shards.remove()
    yield EvaluationDone(report, str(target), str(page))


def _add_details(
    report: dict[str, Any], scored: Scored, device: torch.device, memory: int
) -> Iterator[Event]:
    """Classes and nearest neighbours, where the features of both sides were kept."""
    samples, reference = scored.samples, scored.reference_images
    if reference is None or scored.of_reference is None:
        return
    name = scored.extractor.name
    nearest = nearest_section(scored.of_samples, scored.of_reference, name, device, memory)
    if nearest is not None:
        report["nearest"] = nearest
        if nearest["identical"]:
            yield _noted(
                report,
                f"{nearest['identical']:,} samples of {samples.path} are pixel for pixel images "
                "of the reference",
            )
    classes = class_section(
        samples, scored.of_samples, reference, scored.of_reference, name, device
    )
    if classes is not None:
        report["classes"] = classes
        missing = missing_classes(classes)
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            yield _noted(
                report,
                f"{len(missing)} classes of the reference have no sample in {samples.path}: {some}",
            )


def _noted(report: dict[str, Any], text: str) -> Warned:
    """A warning that the report holds too."""
    report["warnings"].append(text)
    return Warned(text)


def score(
    samples: Path,
    reference: Path,
    extractor: ExtractorName | Path | None = None,
    metrics: tuple[MetricName, ...] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The report alone, for callers that show no progress."""
    request = EvaluateRequest(samples, reference, metrics, extractor, out=out)
    for event in evaluate(request):
        if isinstance(event, EvaluationDone):
            return event.report
    raise AssertionError("evaluate ends with EvaluationDone")


def default_report(request: EvaluateRequest) -> Path:
    """`report.json` in a folder of samples, `NAME.report.json` beside a file.

    Of several sets: `comparison.json` in the current folder.
    """
    if request.others:
        return Path("comparison.json")
    if request.samples.is_dir():
        return request.samples / "report.json"
    return request.samples.with_name(request.samples.stem + ".report.json")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
