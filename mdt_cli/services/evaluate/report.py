"""The report of one evaluation: what each number means, what stands behind it, and where it may be
compared.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from mdt_cli import __version__
from mdt_cli.config.evaluation import MetricName, facts_of, of_tables
from mdt_cli.images.pixel_rule import RULE
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.comparability import Conditions, Stamp, adm_stamp, clean_fid_stamp
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.extractors.resize import RESIZE_RULES
from mdt_cli.metrics.memorisation import SUSPECT, memorisation
from mdt_cli.metrics.per_class import ROWS_PER_DIMENSION, class_scores, matched
from mdt_cli.services.evaluate.plan import Plan

FORMAT = 1
LONGEST_FACT = 2000  # characters of one entry of samples.json that a report repeats
PAIRS = 32
# Distances to so many pairs of images take a minute or two; beyond, a part of the reference serves.
MOST_DISTANCES = 500_000_000


@dataclass(frozen=True)
class Scored:
    """One set of samples, extracted, and what it is scored against."""

    plan: Plan
    samples: SizedSet
    of_samples: Extracted
    of_reference: Extracted | None


def report_of(scored: Scored, values: dict[MetricName, dict[str, Any]]) -> dict[str, Any]:
    """The report: no times and no batch size, so that equal work gives an equal file."""
    extractor = scored.plan.extractor
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
            "device": device_name(scored.plan.device),
        },
    }


def _stamps(scored: Scored, metrics: tuple[str, ...]) -> tuple[Stamp, Stamp]:
    extractor, reference = scored.plan.extractor, scored.plan.reference
    held, stored = reference.statistics, reference.stored
    conditions = Conditions(
        metrics=metrics,
        extractor=extractor.name,
        resize=extractor.resize,
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
        **({"crop": RULE.text, "resized": images.resized} if images.crop is not None else {}),
        "digest": extracted.statistics.digest if extracted else None,
    }
    if images.provenance is not None:
        facts["provenance"] = {
            key: value if len(str(value)) <= LONGEST_FACT else "see samples.json"
            for key, value in images.provenance.items()
        }
    return facts


def _reference_facts(scored: Scored) -> dict[str, Any]:
    reference = scored.plan.reference
    if reference.images is not None:
        facts = _set_facts(reference.images, scored.of_reference)
        if reference.stored is not None:
            facts["stored_statistics_sha256"] = reference.stored.digest
        return facts
    held = reference.statistics
    if held is None:
        raise ValueError("a reference has images or statistics")
    return {
        "path": str(reference.path),
        "kind": "statistics",
        "count": held.count,
        "image_size": list(held.size) if held.size else None,
        "digest": held.digest,
    }


def device_name(device: torch.device) -> str:
    """As it stands in reports: the model of a GPU, else `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def class_section(
    samples: SizedSet,
    of_samples: Extracted,
    reference: SizedSet,
    of_reference: Extracted,
    extractor: str,
    device: torch.device,
) -> dict[str, Any] | None:
    """`classes` of the report; None where one of the sets has no classes, or others."""
    if of_samples.features_ND is None or of_reference.features_ND is None:
        return None
    both = matched(samples.classes, reference.classes)
    if both is None:
        return None
    ours, theirs = both
    used, count = len(of_reference.features_ND), reference.count
    found = class_scores(
        of_samples.features_ND,
        [ours[k] for k in of_samples.positions_N.tolist()],
        of_reference.features_ND,
        [theirs[k] for k in of_reference.positions_N[:used].tolist()],
        device,
    )
    what = {
        "frechet": "Fréchet distance between the samples and the reference images of each class",
        "kernel": "kernel distance (unbiased, cubic) of each class, because some class has fewer "
        f"than {ROWS_PER_DIMENSION} x {of_samples.features_ND.shape[1]} images; small differences "
        "between classes are noise",
    }[found.rule]
    part = "" if used == count else f", {used:,} of {count:,} reference images"
    return {
        "rule": f"{what}, on features of {extractor}{part}",
        "names": {
            "samples": dict(zip(ours, samples.classes or (), strict=True)),
            "reference": dict(zip(theirs, reference.classes or (), strict=True)),
        },
        "scores": [
            {
                "name": score.name,
                "value": score.value,
                "standard_error": score.standard_error,
                "samples": score.samples,
                "reference": score.reference,
            }
            for score in found.scores
        ],
    }


def missing_classes(section: Mapping[str, Any]) -> list[str]:
    """Classes of the reference that no sample has."""
    names = section["names"]
    return sorted(names["reference"].keys() - names["samples"].keys())


def nearest_section(
    of_samples: Extracted,
    of_reference: Extracted,
    extractor: str,
    device: torch.device,
    memory: int,
) -> dict[str, Any] | None:
    """`nearest` of the report: pairs by their positions in reading order, the closest first."""
    samples_ND, reference_MD = of_samples.features_ND, of_reference.features_ND
    if samples_ND is None or reference_MD is None or len(reference_MD) < 2:
        return None
    most = max(2, MOST_DISTANCES // len(samples_ND))
    part_MD = reference_MD[:most]
    found = memorisation(
        samples_ND,
        part_MD,
        of_samples.digests,
        of_reference.digests,
        pairs=PAIRS,
        device=device,
        memory=memory,
    )
    count = of_reference.statistics.count or len(reference_MD)
    among = f"all {count:,}" if len(part_MD) == count else f"{len(part_MD):,}"
    return {
        "identical": found.identical,
        "suspect_share": found.share,
        "suspect_distance": found.threshold,
        "note": (
            f"{found.identical:,} of {len(samples_ND):,} samples are pixel for pixel a reference "
            f"image. {found.share:.1%} lie nearer to one than {1 - SUSPECT:.0%} of the distinct "
            f"reference images do to each other ({SUSPECT:.0%} is what new images of the same kind "
            f"give). Euclidean distance of {extractor} features, {among} reference images."
        ),
        "closest": [
            {
                "sample": int(of_samples.positions_N[pair.sample]),
                "reference": int(of_reference.positions_N[pair.reference]),
                "distance": pair.distance,
            }
            for pair in found.closest
        ],
    }
