"""One function for each group of metrics, and no metric without one."""

from dataclasses import replace

import pytest
import torch

from mdt_cli.config.evaluation import FACTS, METRICS, MetricFacts
from mdt_cli.metrics.compute import compute
from mdt_cli.metrics.features import ALL_ROWS, Features, Gaussian, Limits, Side
from mdt_cli.metrics.frechet import fewest_for_limit
from mdt_cli.metrics.kernel import kernel_distance
from mdt_cli.metrics.registry import GROUPS
from mdt_cli.metrics.statistics import Statistics

DIMENSIONS, CLASSES = 3, 4


def normal(count: int, shift: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIMENSIONS, generator=generator) + shift


def side(seed: int, count: int) -> Side:
    rows = normal(count, 0.1 * seed, seed)
    moments = Gaussian(Statistics(rows.double().mean(0), rows.double().T.cov(), "", count=count))
    digests = tuple(bytes([seed, row]) for row in range(count))
    return Side(moments, rows, digests, spatial=moments)


COUNT = fewest_for_limit(DIMENSIONS)
FEATURES = Features(
    samples=side(0, COUNT),
    reference=side(1, COUNT + 1),
    head_CD=normal(CLASSES, 0.0, 2),
    bias_C=torch.zeros(CLASSES),
)


def test_the_registry_has_each_metric_of_the_facts_once() -> None:
    assert sorted(name for names in GROUPS for name in names) == sorted(METRICS)


def test_each_group_gives_what_it_is_registered_for() -> None:
    for names, group in GROUPS.items():
        assert tuple(group(FEATURES)) == names


def test_metrics_come_in_the_order_asked_for_with_their_counts() -> None:
    asked = ("recall", "fid", "is")
    found = compute(FEATURES, asked)
    assert tuple(found) == asked
    counts = {name: (entry["samples"], entry["reference"]) for name, entry in found.items()}
    assert counts == {
        "recall": (COUNT, COUNT + 1),
        "fid": (COUNT, COUNT + 1),
        "is": (COUNT, None),
    }


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts.name)
def test_what_the_facts_say_is_needed_is_enough_and_nothing_of_it_can_go(
    facts: MetricFacts,
) -> None:
    expected = compute(FEATURES, (facts.name,))[facts.name]["value"]
    needed = Features(Side(None), Side(None))
    for need in sorted(facts.needs):
        needed = give(needed, need)
    assert compute(needed, (facts.name,))[facts.name]["value"] == pytest.approx(expected, rel=1e-9)
    for left_out in facts.needs:
        some = Features(Side(None), Side(None))
        for need in sorted(facts.needs - {left_out}):
            some = give(some, need)
        with pytest.raises(ValueError, match="no "):
            compute(some, (facts.name,))


def give(features: Features, need: str) -> Features:
    ours, theirs = features.samples, features.reference
    match need:
        case "moments":
            ours = replace(ours, pooled=FEATURES.samples.pooled)
            theirs = replace(theirs, pooled=FEATURES.reference.pooled)
        case "spatial moments":
            ours = replace(ours, spatial=FEATURES.samples.spatial)
            theirs = replace(theirs, spatial=FEATURES.reference.spatial)
        case "samples":
            ours = replace(ours, rows_ND=FEATURES.samples.rows_ND, digests=FEATURES.samples.digests)
        case "reference":
            theirs = replace(
                theirs, rows_ND=FEATURES.reference.rows_ND, digests=FEATURES.reference.digests
            )
        case "classes":
            return replace(features, head_CD=FEATURES.head_CD, bias_C=FEATURES.bias_C)
    return replace(features, samples=ours, reference=theirs)


def test_limits_are_leading_rows() -> None:
    few = replace(FEATURES, limits=Limits(neighbours=9, kernel=8))
    found = compute(few, ("precision", "recall", "density", "coverage", "kid", "memorisation"))
    counts = {name: (entry["samples"], entry["reference"]) for name, entry in found.items()}
    assert counts == {
        "precision": (COUNT, 9),
        "recall": (COUNT, 9),
        "density": (9, 9),
        "coverage": (9, 9),
        "kid": (8, 8),
        "memorisation": (COUNT, 8),
    }
    ours, theirs = FEATURES.samples.rows_ND, FEATURES.reference.rows_ND
    assert ours is not None
    assert theirs is not None
    assert found["kid"]["value"] == kernel_distance(ours[:8], theirs[:8]).value
    whole = compute(replace(FEATURES, limits=ALL_ROWS), ("kid",))["kid"]["value"]
    assert whole == kernel_distance(ours, theirs).value


def test_a_distance_without_rows_has_no_error() -> None:
    pooled = FEATURES.samples.pooled
    assert pooled is not None
    without = replace(
        FEATURES, samples=replace(FEATURES.samples, pooled=replace(pooled, rows_ND=None))
    )
    assert compute(without, ("fid",))["fid"]["standard_error"] is None
