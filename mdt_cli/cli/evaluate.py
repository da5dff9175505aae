"""`mdt evaluate`: score one set of images against another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mdt_cli.cli.options import Device, Json
from mdt_cli.cli.output import emit, emit_json, table, talk
from mdt_cli.cli.progress import Bar, drawn
from mdt_cli.config.evaluation import (
    EXTRACTORS,
    METRICS,
    RESIZES,
    choose,
    choose_several,
)


def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="Images to score: a folder, zip, npz or sample folder.")
    ],
    reference: Annotated[
        Path, typer.Argument(help="Real images in any of these forms, or an npz of statistics.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Some of {','.join(METRICS)}; default: all that the reference allows.",
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor",
            help=f"{' or '.join(EXTRACTORS)}; default: inception where it is at hand.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The Inception file, where it is not cached.")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help=f"{' or '.join(RESIZES)} (as ADM); Inception only."),
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
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score SAMPLES against REFERENCE: FID, Inception score, precision, recall, KID.

    Example: mdt evaluate samples/ real-images/
    """
    chosen_metrics = choose_several("--metrics", metrics, METRICS)
    chosen_extractor = choose("--extractor", extractor, EXTRACTORS)
    chosen_resize = choose("--resize", resize and resize.replace("-", "_"), RESIZES)

    from mdt_cli.services.evaluate import EvaluateRequest
    from mdt_cli.services.evaluate import evaluate as run

    request = EvaluateRequest(
        samples=samples,
        reference=reference,
        metrics=chosen_metrics,
        extractor=chosen_extractor,
        weights=weights,
        resize=chosen_resize,
        out=out,
        save_reference=save_reference,
        batch_size=batch_size,
        device=device,
    )
    with Bar("extracting", "images") as bar:
        done = next(event for event in drawn(run(request), bar))
    report = done.report
    talk(f"report: {done.path}")
    if as_json:
        emit_json(report)
    else:
        show(report)


def show(report: dict[str, Any]) -> None:
    """The report as a table, with its stamp under it."""
    rows = []
    for name, metric in report["metrics"].items():
        spread = metric.get("standard_error") or metric.get("deviation")
        rows.append(
            (
                name,
                f"{metric['value']:.5g}",
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
