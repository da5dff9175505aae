"""What one evaluation will do, decided from headers: whatever is refused is refused here.

The extractor may be loaded; no image is decoded.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.config.evaluation import MetricName, that_compare_moments, that_need
from mdt_cli.errors import MdtError
from mdt_cli.images.sized import SizedSet, sized
from mdt_cli.metrics.extractors.build import build_extractor
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.neighbours import MEMORY
from mdt_cli.services.evaluate.checks import (
    check_dimensions,
    check_limit,
    check_options,
    check_outputs,
    check_same_kind,
    check_same_size,
    check_sets,
    remarks,
    usable_statistics,
)
from mdt_cli.services.evaluate.request import (
    EvaluateRequest,
    Reference,
    choose_extractor,
    choose_metrics,
    choose_resize,
    default_report,
    open_reference,
    page_of,
)
from mdt_cli.services.events import Event
from mdt_cli.services.runtime import own_device
from mdt_cli.services.work import Share

# On a CPU larger batches only cost page faults: 64 takes twice the time of 4 per image.
CPU_BATCH, GPU_BATCH = 4, 64
WORK = ".work"
# Rows of features are kept for the error of a distance up to this many bytes.
KEPT_BYTES = 2 << 30


@dataclass(frozen=True)
class Plan:
    """Everything that an evaluation is made of, checked."""

    sets: tuple[SizedSet, ...]
    reference: Reference
    metrics: tuple[MetricName, ...]
    extractor: Extractor
    device: torch.device
    batch_size: int
    memory: int  # for blocks of distances, in bytes
    share: Share
    report: Path
    page: Path
    save_reference: Path | None

    @property
    def work(self) -> Path:
        """The folder of unfinished features."""
        return self.report.with_suffix(WORK)

    @property
    def compares_rows(self) -> bool:
        """Whether the features of each reference image are needed."""
        return bool(that_need("reference", self.metrics))

    @property
    def extracted_reference(self) -> SizedSet | None:
        """The images of the reference, where stored statistics do not suffice."""
        without = self.reference.statistics is None
        needed = (
            self.compares_rows
            or self.save_reference is not None
            or (that_compare_moments(self.metrics) and without)
        )
        return self.reference.images if needed else None

    def keeps_rows(self, samples: SizedSet) -> bool:
        """Whether the samples' features stay in memory: a metric needs them, or its error may."""
        needed = that_need("samples", self.metrics)
        return bool(needed) or 4 * samples.count * self.extractor.width <= KEPT_BYTES


def make_plan(request: EvaluateRequest) -> Generator[Event, None, Plan]:
    """Choose what was left open and check everything; MdtError for what cannot be scored."""
    check_options(request)
    report = request.out or default_report(request)
    page = page_of(report)
    if report.suffix == WORK:
        raise MdtError(
            f"--out {report} is the name of the folder for features", "name a file, as report.json"
        )
    paths = (request.samples, *request.others)
    sets = tuple(sized(open_images(path, request.samples_reading), request.size) for path in paths)
    reference = open_reference(request.reference, request.size, request.reading)
    name = yield from choose_extractor(request, reference)
    resize = choose_resize(request, name, reference)
    metrics = yield from choose_metrics(request, reference, name)
    # Of the other networks the name, which bears their size, is known once they are loaded.
    named_early = name in ("inception", "efficientnet-lite0")
    if named_early:
        reference = usable_statistics(reference, str(name), resize, metrics, request)
    for samples in sets:
        check_sets(samples, reference, metrics)
    check_same_size(sets, reference)
    share = Share.from_environment()
    if share.rank == 0:
        check_outputs(report, page)

    device = own_device(request.device)
    spatial = "sfid" in metrics or (name == "inception" and request.save_reference is not None)
    size = sets[0].size
    extractor = build_extractor(name, device, request.weights, resize, spatial, size)
    if not named_early:
        reference = usable_statistics(reference, extractor.name, extractor.resize, metrics, request)
    if share.rank == 0 and request.save_reference is not None:
        check_same_kind(request.save_reference, extractor.name, extractor.resize)
    check_dimensions(reference, extractor)
    check_limit(sets, metrics, extractor.dimensions)
    yield from remarks(sets, reference, extractor, metrics)
    return Plan(
        sets=sets,
        reference=reference,
        metrics=metrics,
        extractor=extractor,
        device=device,
        batch_size=request.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH),
        memory=request.memory << 20 if request.memory is not None else MEMORY,
        share=share,
        report=report,
        page=page,
        save_reference=request.save_reference,
    )
