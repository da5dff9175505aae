"""The report of one evaluation: what each number means, and where it may be compared."""

import platform
from importlib.metadata import version
from typing import Any

from mdt_cli import __version__
from mdt_cli.config.evaluation import MetricName, facts_of, of_tables
from mdt_cli.images.decode import CROP
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.comparability import Conditions, Stamp, adm_stamp, clean_fid_stamp
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.extractors.resize import RESIZE_RULES
from mdt_cli.services.evaluate.compute import Scored

FORMAT = 1
LONGEST_FACT = 2000  # characters of one entry of samples.json that a report repeats


def report_of(scored: Scored, values: dict[MetricName, dict[str, Any]]) -> dict[str, Any]:
    """The report: no times and no batch size, so that equal work gives an equal file."""
    extractor = scored.extractor
    adm, clean_fid = _stamps(scored, tuple(values))
    metrics = {}
    for metric, value in values.items():
        tables = [
            name
            for stamp, name in ((adm, "ADM"), (clean_fid, "clean-fid"))
            if stamp.comparable and metric in stamp.metrics
        ]
        metrics[facts_of(metric).named_by(extractor.name)] = {
            **value,
            "extractor": extractor.name,
            "resize": extractor.resize,
            "comparable_with": tables,
        }
    return {
        "format": FORMAT,
        "metrics": metrics,
        "comparability": {
            "verdict": _verdict(adm, clean_fid),
            "adm_tables": _stamp(adm),
            "clean_fid_tables": _stamp(clean_fid),
        },
        "extractor": {
            "id": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "dimensions": extractor.dimensions,
            "input_size": extractor.input_size,
            "resize": extractor.resize,
            "resize_rule": RESIZE_RULES[extractor.resize],
        },
        "samples": _set_facts(scored.samples, scored.of_samples),
        "reference": _reference_facts(scored),
        "software": {
            "mdt": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pillow", "clean-fid")},
            "device": scored.device,
        },
    }


def _stamps(scored: Scored, metrics: tuple[str, ...]) -> tuple[Stamp, Stamp]:
    held, stored = scored.statistics, scored.stored
    conditions = Conditions(
        metrics=metrics,
        extractor=scored.extractor.name,
        resize=scored.extractor.resize,
        num_samples=scored.samples.count,
        adm_sha256=stored.digest if stored is not None and stored.adm else None,
        named_sha256=held.digest if held is not None and held.named else None,
        reference_origin_known=held is None or held.extractor is not None,
        jpeg_samples=scored.samples.jpegs,
        resized_samples=scored.samples.resized,
    )
    adm, clean_fid = of_tables("ADM"), of_tables("clean-fid")
    return adm_stamp(conditions, adm), clean_fid_stamp(conditions, clean_fid)


def _stamp(stamp: Stamp) -> dict[str, Any]:
    return {
        "comparable": stamp.comparable,
        "why_not": list(stamp.why_not),
        "provided_that": stamp.condition if stamp.comparable else None,
    }


def _verdict(adm: Stamp, clean_fid: Stamp) -> str:
    for stamp, name in ((adm, "ADM"), (clean_fid, "clean-fid")):
        if stamp.comparable:
            fit = ", ".join(stamp.metrics)
            return (
                f"{fit} may stand beside published {name} tables, provided that {stamp.condition}"
            )
    shared = [reason for reason in adm.why_not if reason in clean_fid.why_not]
    reasons = shared or [*adm.why_not, *clean_fid.why_not]
    return "not comparable with published tables: " + "; ".join(reasons)


def _set_facts(images: SizedSet, extracted: Extracted | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": str(images.path),
        "kind": images.kind,
        "count": images.count,
        "image_size": list(images.size),
        "jpegs": images.jpegs,
        **({"crop": CROP, "resized": images.resized} if images.crop is not None else {}),
        "digest": extracted.statistics.digest if extracted else None,
    }
    if images.provenance is not None:
        facts["provenance"] = {
            key: value if len(str(value)) <= LONGEST_FACT else "see samples.json"
            for key, value in images.provenance.items()
        }
    return facts


def _reference_facts(scored: Scored) -> dict[str, Any]:
    if scored.reference_images is not None:
        facts = _set_facts(scored.reference_images, scored.of_reference)
        if scored.stored is not None:
            facts["stored_statistics_sha256"] = scored.stored.digest
        return facts
    held = scored.statistics
    if held is None:
        raise ValueError("a reference has images or statistics")
    return {
        "path": str(scored.reference_path),
        "kind": "statistics",
        "count": held.count,
        "image_size": list(held.size) if held.size else None,
        "digest": held.digest,
    }
