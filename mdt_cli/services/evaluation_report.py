"""The metrics of one evaluation, and the report that says what each number means."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mdt_cli import __version__
from mdt_cli.config.evaluation import MetricName
from mdt_cli.core.metrics.comparability import Conditions, Stamp, adm_stamp, clean_fid_stamp
from mdt_cli.core.metrics.extraction import Extracted
from mdt_cli.core.metrics.features import RESIZE_RULES, Extractor
from mdt_cli.core.metrics.frechet import frechet_distance
from mdt_cli.core.metrics.images import ImageSet
from mdt_cli.core.metrics.inception_score import SPLIT, inception_score
from mdt_cli.core.metrics.kernel import kernel_distance
from mdt_cli.core.metrics.moments import Statistics
from mdt_cli.core.metrics.precision_recall import precision_recall

FORMAT = 1
# Dhariwal & Nichol 2021 and its followers hold 10,000 reference images for precision and recall.
REFERENCE_LIMIT = 10_000
# Metrics that the published tables of each family contain.
IN_ADM_TABLES = frozenset({"fid", "is", "precision", "recall"})
IN_CLEAN_FID_TABLES = frozenset({"fid", "kid"})
LONGEST_FACT = 2000  # characters of one entry of samples.json that a report repeats


@dataclass(frozen=True)
class Scored:
    """Everything the metrics and the report are made of."""

    samples: ImageSet
    of_samples: Extracted
    reference_path: Path
    reference_images: ImageSet | None
    of_reference: Extracted | None
    statistics: Statistics | None  # stored ones, where they serve for the Fréchet distance
    extractor: Extractor
    device: str

    @property
    def gaussian(self) -> Statistics:
        """The reference's mean and covariance."""
        if self.statistics is not None:
            return self.statistics
        if self.of_reference is None:
            raise ValueError("the reference was not extracted")
        return self.of_reference.statistics


def metric_key(metric: MetricName, extractor: str) -> str:
    """`fid` is Inception's alone; numbers of another extractor carry its name."""
    if extractor == "inception":
        return metric
    suffix = extractor.replace("-", "_")
    return f"fd_{suffix}" if metric == "fid" else f"{metric}_{suffix}"


def compute(
    scored: Scored, metrics: tuple[MetricName, ...], neighbours: int, device: torch.device
) -> dict[MetricName, dict[str, Any]]:
    """Each metric's value with the rule that made it."""
    ways: dict[MetricName, Callable[[], dict[str, Any]]] = {
        "fid": lambda: _frechet(scored),
        "is": lambda: _inception_score(scored),
        "precision": lambda: {"value": manifold["precision"], **manifold["rule"]},
        "recall": lambda: {"value": manifold["recall"], **manifold["rule"]},
        "kid": lambda: _kernel(scored, device),
    }
    manifold: dict[str, Any] = {}
    if {"precision", "recall"} & set(metrics):
        manifold = _manifold(scored, neighbours, device)
    return {metric: ways[metric]() for metric in metrics}


def report_of(scored: Scored, values: dict[MetricName, dict[str, Any]]) -> dict[str, Any]:
    """The report: no times and no batch size, so that equal work gives an equal file."""
    extractor = scored.extractor
    adm, clean_fid = _stamps(scored)
    metrics = {}
    for metric, value in values.items():
        tables = []
        if adm.comparable and metric in IN_ADM_TABLES:
            tables.append("ADM")
        if clean_fid.comparable and metric in IN_CLEAN_FID_TABLES:
            tables.append("clean-fid")
        metrics[metric_key(metric, extractor.name)] = {
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


def _frechet(scored: Scored) -> dict[str, Any]:
    ours, theirs = scored.of_samples.statistics, scored.gaussian
    value = frechet_distance(ours.mu_D, ours.sigma_DD, theirs.mu_D, theirs.sigma_DD)
    return {"value": value, "samples": ours.count, "reference": theirs.count}


def _inception_score(scored: Scored) -> dict[str, Any]:
    found = inception_score(
        _features(scored.of_samples), scored.extractor.head_CD, scored.extractor.bias_C
    )
    return {
        "value": found.value,
        "deviation": found.deviation,
        "splits": found.num_splits,
        "split_rule": f"max(1, N // {SPLIT}) equal parts, in an order set by the pixels' digests",
        "samples": scored.samples.count,
        "reference": None,
    }


def _manifold(scored: Scored, k: int, device: torch.device) -> dict[str, Any]:
    samples_ND = _features(scored.of_samples)
    reference_MD = _features(scored.of_reference)[:REFERENCE_LIMIT]
    found = precision_recall(samples_ND, reference_MD, k, device)
    return {
        "precision": found.precision,
        "recall": found.recall,
        "rule": {"k": k, "samples": len(samples_ND), "reference": len(reference_MD)},
    }


def _kernel(scored: Scored, device: torch.device) -> dict[str, Any]:
    samples_ND, reference_MD = _features(scored.of_samples), _features(scored.of_reference)
    found = kernel_distance(samples_ND, reference_MD, device)
    return {
        "value": found.value,
        "standard_error": found.standard_error,
        "rule": "unbiased, cubic kernel, all pairs; standard error by the jackknife",
        "samples": len(samples_ND),
        "reference": len(reference_MD),
    }


def _features(extracted: Extracted | None) -> torch.Tensor:
    if extracted is None or extracted.features_ND is None:
        raise ValueError("features were not kept")
    return extracted.features_ND


def _stamps(scored: Scored) -> tuple[Stamp, Stamp]:
    held = scored.statistics
    conditions = Conditions(
        extractor=scored.extractor.name,
        resize=scored.extractor.resize,
        num_samples=scored.samples.count,
        reference_is_adm=held is not None and held.adm,
        reference_origin_known=held is None or held.extractor is not None,
        jpeg_samples=scored.samples.jpegs,
    )
    return adm_stamp(conditions), clean_fid_stamp(conditions)


def _stamp(stamp: Stamp) -> dict[str, Any]:
    return {
        "comparable": stamp.comparable,
        "why_not": list(stamp.why_not),
        "provided_that": stamp.condition if stamp.comparable else None,
    }


def _verdict(adm: Stamp, clean_fid: Stamp) -> str:
    for stamp, name in ((adm, "ADM"), (clean_fid, "clean-fid")):
        if stamp.comparable:
            return f"may stand beside published {name} tables, provided that {stamp.condition}"
    shared = [reason for reason in adm.why_not if reason in clean_fid.why_not]
    reasons = shared or [*adm.why_not, *clean_fid.why_not]
    return "not comparable with published tables: " + "; ".join(reasons)


def _set_facts(images: ImageSet, extracted: Extracted | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": str(images.path),
        "kind": images.kind,
        "count": images.count,
        "image_size": list(images.size),
        "digest": extracted.statistics.digest if extracted else None,
    }
    if images.provenance is not None:
        facts["provenance"] = {
            key: value if len(str(value)) <= LONGEST_FACT else "see samples.json"
            for key, value in images.provenance.items()
        }
    return facts


def _reference_facts(scored: Scored) -> dict[str, Any]:
    held = scored.statistics
    if scored.reference_images is not None:
        facts = _set_facts(scored.reference_images, scored.of_reference)
        if held is not None:
            facts["stored_statistics_sha256"] = held.digest
        return facts
    if held is None:
        raise ValueError("a reference has images or statistics")
    return {
        "path": str(scored.reference_path),
        "kind": "statistics",
        "count": held.count,
        "image_size": list(held.size) if held.size else None,
        "digest": held.digest,
    }
