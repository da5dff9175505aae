"""Score sets of images against a reference: plan, features, metrics, report."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdt_cli.config.evaluation import ExtractorName, MetricName, facts_of
from mdt_cli.files import write_json
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.compute import compute
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.features import PUBLISHED, Features, Gaussian, side_of
from mdt_cli.metrics.statistics import save_statistics
from mdt_cli.services.evaluate.checks import remarks
from mdt_cli.services.evaluate.comparison import side_by_side
from mdt_cli.services.evaluate.feature_shards import Shards
from mdt_cli.services.evaluate.figures import Figure, figures
from mdt_cli.services.evaluate.html import write_page
from mdt_cli.services.evaluate.plan import Plan, make_plan
from mdt_cli.services.evaluate.report import (
    Scored,
    class_section,
    missing_classes,
    nearest_section,
    report_of,
)
from mdt_cli.services.evaluate.request import EvaluateRequest, default_report
from mdt_cli.services.events import EvaluationDone, EvaluationShareDone, Event, Note, Warned
from mdt_cli.services.meeting import Meeting, as_only_writer
from mdt_cli.services.work import Share

__all__ = ["EvaluateRequest", "default_report", "evaluate", "score"]


@dataclass(frozen=True)
class Part:
    """What the report and its page hold of one set of samples."""

    report: dict[str, Any]
    figures: dict[str, list[Figure]]


def evaluate(request: EvaluateRequest) -> Iterator[Event]:
    """Score each set of samples against `reference`; the last event is `EvaluationDone`.

    Everything that can be known from headers is checked before the first image is decoded. With
    several processes each extracts its share, and the first one scores and writes.
    """
    share = Share.from_environment()
    yield from as_only_writer(
        request.out or default_report(request), False, share, _evaluate(request)
    )


def _evaluate(request: EvaluateRequest) -> Iterator[Event]:
    plan = yield from make_plan(request)
    shards = yield from extract_features(plan)
    if plan.share.rank:
        yield EvaluationShareDone(plan.share.rank, plan.share.of)
        return
    of_reference = yield from reference_features(plan, shards)
    names = [facts_of(metric).named_by(plan.extractor.name) for metric in plan.metrics]
    yield Note("computing " + ", ".join(names))
    parts = []
    # One set after another: the features of a single one are in memory.
    for samples in plan.sets:
        of_samples = yield from shards.merged(samples, plan.keeps_rows(samples), "samples")
        parts.append((yield from compute_part(Scored(plan, samples, of_samples, of_reference))))
    report = write_report(plan, parts)
    shards.remove()
    yield EvaluationDone(report, str(plan.report), str(plan.page))


def extract_features(plan: Plan) -> Generator[Event, None, Shards]:
    """This process's share of the features; on the first process, those of all others too."""
    real = plan.extracted_reference
    jobs: list[tuple[SizedSet, str]] = [(real, "reference")] if real else []
    jobs += [(samples, "samples") for samples in plan.sets]
    total = sum(images.count for images, _ in jobs)
    meeting = Meeting(plan.share, plan.report, is_folder=False)
    work = (plan.extractor, plan.device, plan.batch_size)
    shards = Shards(plan.work, plan.share, *work, total, meeting)
    for images, what in jobs:
        yield from shards.make(images, what)
    yield from meeting.without_first()
    yield from shards.wait()
    return shards


def reference_features(plan: Plan, shards: Shards) -> Generator[Event, None, Extracted | None]:
    """Those of the reference's images; None where its stored statistics suffice."""
    if plan.extracted_reference is None:
        return None
    work = shards.merged(
        plan.extracted_reference, plan.compares_rows, "reference", PUBLISHED.kernel
    )
    extracted = yield from work
    if plan.save_reference is not None:
        save_statistics(plan.save_reference, extracted.statistics, extracted.spatial)
        yield Note(f"statistics of the reference are in {plan.save_reference}")
    return extracted


def compute_part(scored: Scored) -> Generator[Event, None, Part]:
    """The metrics of one set, its classes, its nearest neighbours and its figures."""
    plan, samples, of_samples = scored.plan, scored.samples, scored.of_samples
    reference, of_reference = plan.reference.images, scored.of_reference
    report = report_of(scored, compute(features_of(scored), plan.metrics))
    said = remarks([samples], plan.reference, plan.extractor, plan.metrics)
    report["warnings"] = [event.text for event in said if isinstance(event, Warned)]
    if reference is not None and of_reference is not None:
        if of_reference.statistics.digest == of_samples.statistics.digest:
            yield _noted(report, f"{samples.path} and the reference are the same images")
        name = plan.extractor.name
        nearest = nearest_section(of_samples, of_reference, name, plan.device, plan.memory)
        if nearest is not None:
            report["nearest"] = nearest
            if nearest["identical"]:
                yield _noted(
                    report,
                    f"{nearest['identical']:,} samples of {samples.path} are pixel for pixel "
                    "images of the reference",
                )
        classes = class_section(samples, of_samples, reference, of_reference, name, plan.device)
        if classes is not None:
            report["classes"] = classes
            missing = missing_classes(classes)
            if missing:
                some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
                yield _noted(
                    report,
                    f"{len(missing)} classes of the reference have no sample in {samples.path}: "
                    f"{some}",
                )
    return Part(report, figures(report, samples, of_samples, reference, of_reference))


def features_of(scored: Scored) -> Features:
    """Both sides, with stored statistics of the reference in place of those of its images."""
    plan, reference = scored.plan, side_of(scored.of_reference)
    if plan.reference.statistics is not None:
        reference = replace(reference, pooled=Gaussian(plan.reference.statistics))
    if plan.reference.spatial is not None:
        reference = replace(reference, spatial=Gaussian(plan.reference.spatial))
    return Features(
        samples=side_of(scored.of_samples),
        reference=reference,
        head_CD=plan.extractor.head_CD,
        bias_C=plan.extractor.bias_C,
        device=plan.device,
        memory=plan.memory,
        limits=PUBLISHED,
    )


def write_report(plan: Plan, parts: list[Part]) -> dict[str, Any]:
    """The report and its page, written; several sets stand side by side."""
    reports = [part.report for part in parts]
    report = reports[0] if len(reports) == 1 else side_by_side(reports)
    write_json(plan.report, report)
    write_page(plan.page, report, [part.figures for part in parts])
    return report


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
