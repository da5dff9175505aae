"""`mdt evaluate`: score one set of images against another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mdt_cli.cli.options import (
    Device,
    FileColumn,
    Json,
    LabelBefore,
    LabelBeforeLast,
    LabelColumn,
    Labels,
    Only,
)
from mdt_cli.cli.output import emit, emit_json, table, talk
from mdt_cli.cli.progress import Bar, shown_events
from mdt_cli.config.evaluation import (
    EXTRACTORS,
    METRICS,
    RESIZES,
    choose,
    choose_extractor_or_file,
    choose_several,
)
from mdt_cli.errors import MdtError


def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLES... REFERENCE",
            help="Images to score, each a folder, zip, tar, npz, sample folder or latent cache of "
            "pixels; last the real images in any of these forms, or an npz of statistics.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Some of {','.join(METRICS)}; default: those of published tables.",
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor",
            help=f"{', '.join(EXTRACTORS)}, or any network in a FILE.pt (TorchScript) or FILE.pt2 "
            "(exported) that takes float images [B,3,H,W] in 0..255 and returns [B,D]; "
            "default: inception if its weights are found.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="The Inception file (clean-fid's or pytorch-fid's), or a folder of DINOv2 or "
            "CLIP, where they are not cached.",
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            "--resize",
            help=f"{RESIZES[0]}, {RESIZES[1]} (as ADM) or {RESIZES[2]} (as pytorch-fid); "
            "Inception only.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The report; default: report.json with the samples."),
    ] = None,
    save_reference: Annotated[
        Path | None,
        typer.Option("--save-reference", help="Write the reference's statistics for next time."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Images per pass; does not change the numbers."),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option("--memory", help="Megabytes for blocks of distances; default: 512."),
    ] = None,
    reconstruction: Annotated[
        bool,
        typer.Option(
            "--reconstruction",
            help="The paths are IMAGES CODEC: how well a codec (pixels, a Hugging Face id or a "
            "folder) gives the images back.",
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            help="Crop every image to a square of this side first, as encode-latents --size does.",
        ),
    ] = None,
    only: Only = None,
    labels: Labels = None,
    file_column: FileColumn = None,
    label_column: LabelColumn = None,
    label_before: LabelBefore = None,
    label_before_last: LabelBeforeLast = None,
    samples_only: Annotated[
        list[str] | None,
        typer.Option(
            "--samples-only", metavar="PATTERN", help="As --only, which is for REFERENCE."
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score SAMPLES against REFERENCE: Fréchet and kernel distances, precision, recall and more.

    Several SAMPLES are scored side by side. A table goes to stdout; report.json and report.html
    go beside the samples.

    Example: mdt evaluate samples/ real-images/
    """
    chosen_metrics = choose_several("--metrics", metrics, METRICS)
    chosen_extractor = choose_extractor_or_file("--extractor", extractor)
    chosen_resize = choose("--resize", resize and resize.replace("-", "_"), RESIZES)
    if len(paths) < 2 or (reconstruction and len(paths) != 2):
        wanted = "IMAGES CODEC" if reconstruction else "SAMPLES... REFERENCE"
        raise MdtError(
            f"mdt evaluate was given {len(paths)} {'path' if len(paths) == 1 else 'paths'}, "
            f"and needs {wanted}",
            "mdt evaluate --reconstruction images/ CODEC"
            if reconstruction
            else "mdt evaluate samples/ real-images/",
        )
    for option, given in (
        ("--metrics", metrics),
        ("--save-reference", save_reference),
        ("--memory", memory),
        ("--samples-only", samples_only),
        ("--labels", labels),
        ("--label-column", label_column),
        ("--label-before", label_before),
        ("--label-before-last", label_before_last),
    ):
        if reconstruction and given is not None:
            raise MdtError(
                f"{option} does not go with --reconstruction",
                f"leave {option} out: a codec is always measured in the same way",
            )

    *samples, reference = paths
    from mdt_cli.services.reading import SAMPLES_ONLY, reading_of

    reading = reading_of(only, labels, file_column, label_column, label_before, label_before_last)
    if reconstruction:
        from mdt_cli.services.evaluate.codec_quality import ReconstructionRequest, reconstruct

        what = ReconstructionRequest(
            images=Path(samples[0]),
            codec=reference,
            size=size,
            extractor=chosen_extractor,
            weights=weights,
            resize=chosen_resize,
            out=out,
            batch_size=batch_size,
            device=device,
            reading=reading,
        )
        _show_events(reconstruct(what), "reconstructing", as_json)
        return
    from mdt_cli.services.evaluate.evaluate import EvaluateRequest
    from mdt_cli.services.evaluate.evaluate import evaluate as run

    request = EvaluateRequest(
        samples=Path(samples[0]),
        others=tuple(Path(path) for path in samples[1:]),
        reference=Path(reference),
        metrics=chosen_metrics,
        extractor=chosen_extractor,
        weights=weights,
        resize=chosen_resize,
        out=out,
        save_reference=save_reference,
        batch_size=batch_size,
        device=device,
        memory=memory,
        size=size,
        reading=reading,
        samples_reading=reading_of(samples_only, only_option=SAMPLES_ONLY),
    )
    _show_events(run(request), "extracting", as_json)


def _show_events(events: Iterator[Any], title: str, as_json: bool) -> None:
    from mdt_cli.services.events import EvaluationDone

    with Bar(title, "images") as bar:
        done = next(
            (event for event in shown_events(events, bar) if isinstance(event, EvaluationDone)),
            None,
        )
    if done is None:
        return  # one of several processes: the first one reports
    report = done.report
    talk(f"report: {done.path}" + (f" and {done.page}" if done.page else ""))
    if as_json:
        emit_json(report)
    elif "reports" in report:
        show_side_by_side(report)
    else:
        show(report)


def show_side_by_side(report: dict[str, Any]) -> None:
    """A column for each set; * marks the best, = what is tied with it."""
    comparison = report["comparison"]
    rows = []
    for name, compared in comparison["metrics"].items():
        marks = {compared["best"]: " *", **dict.fromkeys(compared["ties_with_best"], " =")}
        values = [f"{v:.5g}{marks.get(k, '')}" for k, v in enumerate(compared["values"])]
        rows.append((name, *values))
    first = report["reports"][0]
    table(f"Against {first['reference']['path']}", ("metric", *comparison["sets"]), rows)
    emit("* best, = a tie: the difference from the best is within its error")
    for caution in comparison["cautions"]:
        emit(caution)
    extractor = first["extractor"]
    emit(f"extractor {extractor['id']}, resizing {extractor['resize']}: {extractor['resize_rule']}")
    verdicts = [single["comparability"]["verdict"] for single in report["reports"]]
    if len(set(verdicts)) == 1:
        emit(verdicts[0])
    else:
        for name, verdict in zip(comparison["sets"], verdicts, strict=True):
            emit(f"{name}: {verdict}")


def show(report: dict[str, Any]) -> None:
    """The report as a table, with its stamp under it."""
    rows = []
    for name, metric in report["metrics"].items():
        spread = metric.get("standard_error") or metric.get("deviation")
        rows.append(
            (
                name,
                "exact" if metric["value"] is None else f"{metric['value']:.5g}",
                f"{spread:.2g}" if spread is not None else "",
                _count(metric["samples"]),
                _count(metric["reference"]),
            )
        )
    extractor = report["extractor"]
    title = f"{report['samples']['path']} against {report['reference']['path']}"
    table(title, ("metric", "value", "±", "samples", "reference"), rows)
    emit(f"extractor {extractor['id']}, resizing {extractor['resize']}: {extractor['resize_rule']}")
    emit(report["comparability"]["verdict"])


def _count(count: int | None) -> str:
    return f"{count:,}" if count is not None else "-"
