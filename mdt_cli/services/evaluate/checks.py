"""What is refused, or warned of, before the first image is decoded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mdt_cli.config.evaluation import (
    RESIZES,
    MetricName,
    of_neighbours,
    that_compare_moments,
)
from mdt_cli.errors import MdtError
from mdt_cli.files import check_writable
from mdt_cli.images.npz import keys
from mdt_cli.images.sized import SizedSet
from mdt_cli.json_reader import read_json
from mdt_cli.metrics.extractors.build import Extractor
from mdt_cli.metrics.features import PUBLISHED
from mdt_cli.metrics.frechet import ENOUGH_PER_DIMENSION, fewest_for_limit
from mdt_cli.metrics.statistics import (
    RULES_OF_OTHERS,
    load_statistics,
)
from mdt_cli.services.evaluate.request import EvaluateRequest, Reference, times
from mdt_cli.services.events import Event, Note, Warned

# Below this the estimated covariance of 2,048 features is singular, and FID mostly bias.
FEW_IMAGES = 2048
# How every page of a report begins to be one.
TITLE = "<title>mdt evaluate"


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
    if not that_compare_moments(metrics):
        if held.adm and request.resize is None:
            raise MdtError(
                f"{reference.path} has the arrays of ADM's files, whose tables resize by "
                f"{made_with}, but samples would be resized by {resize}",
                f"use --resize {made_with}, or pass --resize {resize}",
            )
        return reference if reference.images is None else without
    if held.extractor is not None and held.extractor != extractor:
        raise MdtError(
            f"{reference.path} was computed with {held.extractor}, but the extractor is "
            f"{extractor}",
            f"use --extractor {held.extractor}, or give the reference images",
        )
    if held.extractor is None and extractor != "inception":
        raise MdtError(
            f"{reference.path} does not record its extractor, so it is taken for Inception's",
            "use --extractor inception, or give the reference images",
        )
    if made_with is None and extractor == "inception" and request.resize is None:
        raise MdtError(
            f"{reference.path} does not record its resize mode, and each mode gives another FID",
            RULES_OF_OTHERS,
        )
    if made_with is not None and made_with != resize:
        raise MdtError(
            f"{reference.path} was computed with {made_with} resizing, but samples would be "
            f"resized by {resize}",
            f"use --resize {made_with}"
            if made_with in RESIZES and extractor == "inception"
            else "write it again with --save-reference",
        )
    return reference


def check_same_size(sets: Sequence[SizedSet], reference: Reference) -> None:
    """All sets have the size of the reference; where that is not known, that of the first."""
    size, of = sets[0].size, sets[0].path
    if reference.images is not None:
        size, of = reference.images.size, reference.path
    elif reference.statistics is not None and reference.statistics.size is not None:
        size, of = reference.statistics.size, reference.path
    for samples in sets:
        if samples.size != size:
            side = min(*samples.size, *size)
            hint = f"pass --size {side}: it crops every image as `mdt encode-latents` does"
            fixed = _uncroppable([*sets, *filter(None, [reference.images])], reference)
            if any(held != (side, side) for held in fixed):
                hint = (
                    "statistics and latent caches cannot be cropped: give the images behind them, "
                    f"and --size {side}"
                )
            holds = "holds" if samples.crop is None else f"with --size {samples.crop} gives"
            raise MdtError(
                f"{samples.path} {holds} {times(samples.size)} images, but {of} is of "
                f"{times(size)}; a score would measure the difference in resolution",
                hint,
            )


def _uncroppable(sets: Sequence[SizedSet], reference: Reference) -> list[tuple[int, int]]:
    """The sizes of what `--size` cannot change."""
    held = [images.size for images in sets if images.kind == "latent cache"]
    if reference.stored is not None and reference.stored.size is not None:
        held.append(reference.stored.size)
    elif reference.stored is not None and reference.images is not None:
        held.append(reference.images.size)
    return held


def check_sets(
    samples: SizedSet,
    reference: Reference,
    metrics: tuple[MetricName, ...],
) -> None:
    """Whether there are images enough on both sides."""
    for images in (samples, reference.images):
        if images is None:
            continue
        if images.count < 2:
            raise MdtError(
                f"{images.path} holds {images.count} image; no metric is defined below 2",
                "give more images",
            )
        for neighbours, names in of_neighbours(metrics).items():
            if images.count < neighbours + 1:
                needs = "need" if len(names) > 1 else "needs"
                raise MdtError(
                    f"{images.path} holds {images.count} images; {' and '.join(names)} {needs} at "
                    f"least {neighbours + 1}",
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


def check_limit(sets: Sequence[SizedSet], metrics: tuple[MetricName, ...], dimensions: int) -> None:
    """Whether `fid_infinity` has samples enough for so many features."""
    fewest = fewest_for_limit(dimensions)
    for samples in sets:
        if "fid_infinity" in metrics and samples.count < fewest:
            raise MdtError(
                f"{samples.path} holds {samples.count:,} images; fid_infinity over {dimensions:,} "
                f"features needs {fewest:,}, better {ENOUGH_PER_DIMENSION * dimensions:,}",
                "give more samples, or leave fid_infinity out of --metrics",
            )


def check_options(request: EvaluateRequest) -> None:
    """Numbers above 0, and a file for statistics that replaces nothing else."""
    if request.batch_size is not None and request.batch_size < 1:
        raise MdtError(f"--batch-size is {request.batch_size}", "give 1 or more")
    if request.memory is not None and request.memory < 1:
        raise MdtError(f"--memory is {request.memory}", "give megabytes, 1 or more")
    if request.save_reference is not None:
        sets = (request.samples, *request.others)
        check_statistics_file(request.save_reference, request.reference, sets)


def remarks(
    sets: Sequence[SizedSet],
    reference: Reference,
    extractor: Extractor,
    metrics: tuple[MetricName, ...],
) -> Iterator[Event]:
    """Notes and warnings that are known before anything is extracted."""
    side = extractor.input_size
    if side is not None and max(sets[0].size) < side:
        yield Note(
            f"{times(sets[0].size)} images are enlarged to {side}x{side} for {extractor.name}"
        )
    for samples in sets:
        if samples.jpegs:
            yield Warned(
                f"{samples.jpegs:,} samples are JPEG or of another lossy format, whose artefacts "
                "change every score; sample to PNG"
                + (f" ({samples.path})" if len(sets) > 1 else "")
            )
    for images in (*sets, *([reference.images] if reference.images else [])):
        for note in images.images.notes:
            yield Note(note)
        if images.images.fault is not None:
            fault = images.images.fault
            hint = f" ({fault.hint})" if fault.hint else ""
            yield Warned(f"{fault.message}{hint}; no scores per class")
        if images.enlarged:
            yield Warned(
                f"{images.enlarged:,} images of {images.path} are smaller than --size "
                f"{images.crop}, which enlarges them"
            )
    held = reference.statistics
    if held is not None and held.resize is None and not held.adm:
        yield Warned(
            f"{reference.path} does not record its resize mode; assuming {extractor.resize} as "
            "given by --resize"
        )
    counts = dict.fromkeys(samples.count for samples in sets if samples.count < FEW_IMAGES)
    few = [f"{count:,} samples" for count in counts]
    if reference.count is not None and reference.count < FEW_IMAGES:
        few.append(f"{reference.count:,} reference images")
    if that_compare_moments(metrics) and few:
        yield Warned(
            f"{' and '.join(few)} are few for a Fréchet distance, which is biased upwards below "
            f"{FEW_IMAGES:,}: compare only with the same counts (published: 50,000)"
        )
    enough = ENOUGH_PER_DIMENSION * extractor.dimensions
    if "fid_infinity" in metrics and min(samples.count for samples in sets) < enough:
        yield Warned(
            f"fid_infinity over {extractor.dimensions:,} features is underestimated below "
            f"{enough:,} samples, by more than its interval shows"
        )
    real = reference.images
    bounded = [name for names in of_neighbours(metrics).values() for name in names]
    most = PUBLISHED.neighbours
    if bounded and real and most is not None and real.count > most:
        uses = "use" if len(bounded) > 1 else "uses"
        yield Note(f"{' and '.join(bounded)} {uses} {most:,} of the reference images")


def check_outputs(report: Path, page: Path) -> None:
    """MdtError where one of the two cannot be written, or would replace what is no report."""
    for file, is_ours in ((report, _is_report), (page, _is_page)):
        check_writable(file)
        if file.is_file() and file.stat().st_size and not is_ours(file):
            raise MdtError(
                f"{file} exists and is not a report of mdt evaluate",
                "name another file with --out: the report is written there, and its page beside it",
            )


def check_statistics_file(file: Path, reference: Path, sets: Iterable[Path]) -> None:
    """The same for statistics of the reference."""
    if file.suffix.lower() != ".npz":
        raise MdtError(
            f"--save-reference {file}: statistics are kept in an npz", f"name it {file}.npz"
        )
    if file.resolve() == reference.resolve():
        raise MdtError(f"--save-reference {file} is the reference itself", "name another file")
    if file.resolve() in {given.resolve() for given in sets}:
        raise MdtError(f"--save-reference {file} holds the samples", "name another file")
    check_writable(file)
    if file.is_file() and not {"mu", "sigma"} <= keys(file):
        raise MdtError(
            f"--save-reference {file} exists and holds no statistics", "name another file"
        )


def check_same_kind(file: Path, extractor: str, resize: str) -> None:
    """Statistics are only replaced by those of the same network and resizing."""
    if not file.is_file():
        return
    held = load_statistics(file)
    if (held.extractor, held.resize) != (extractor, resize):
        raise MdtError(
            f"--save-reference {file} holds statistics of {held.extractor or 'an unknown network'} "
            f"with {held.resize or 'unknown'} resizing, not of {extractor} with {resize}",
            "name another file, or remove it",
        )


def _is_report(file: Path) -> bool:
    try:
        held = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and bool({"metrics", "comparison"} & held.keys())


def _is_page(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as page:
        return TITLE in page.read(4096)
