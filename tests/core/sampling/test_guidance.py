import math

import pytest
import torch

from mdt_cli.core.batch import Condition
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.sampling.guidance import (
    NO_LIMIT,
    constant,
    extrapolated,
    guided,
    interval,
    of_conditions,
    power_cosine,
)

GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(3, 4, 2, 2, generator=GENERATOR, dtype=torch.float64)
MAIN = torch.randn(3, 4, 2, 2, generator=GENERATOR, dtype=torch.float64)
OTHER = torch.randn(3, 4, 2, 2, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize(
    ("objective", "t_B"),
    [
        (Epsilon(learned_variance=False), torch.tensor([0, 400, 999])),
        (Edm(), torch.tensor([0.01, 1.0, 60.0], dtype=torch.float64)),
        (Flow(), torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)),
    ],
)
@pytest.mark.parametrize("channels", ["all", "first3"])
def test_guiding_clean_estimates_is_guiding_what_the_network_says(objective, t_B, channels):
    outside = extrapolated(MAIN, OTHER, 3.8, channels)
    expected = objective.denoised(outside, X, t_B)
    ours = extrapolated(
        objective.denoised(MAIN, X, t_B), objective.denoised(OTHER, X, t_B), 3.8, channels
    )
    assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_first3_leaves_the_fourth_channel_alone():
    mixed = extrapolated(MAIN, OTHER, 1.5, "first3")
    assert torch.equal(mixed[:, 3], MAIN[:, 3])
    assert torch.allclose(mixed[:, :3], OTHER[:, :3] + 1.5 * (MAIN - OTHER)[:, :3])


def test_power_cosine_meets_the_published_anchors():
    scale = power_cosine(3.8, 4.0, lambda t: t / 1000)
    found = [scale(t) for t in (999, 750, 500, 250, 100, 0)]
    assert found == pytest.approx([1.0, 1.0001, 1.0269, 1.6365, 3.0594, 3.8], abs=5e-5)
    flat = power_cosine(3.8, 0.01, lambda t: t / 1000)
    assert [flat(t) for t in (999, 750, 500, 250, 100, 0)] == pytest.approx(
        [3.769, 3.799, 3.7997, 3.7999, 3.8, 3.8], abs=5e-4
    )


def test_interval_is_closed_and_1_outside():
    scale = interval(2.0, 0.5, 3.0, lambda t: t / (1 - t) if t < 1 else math.inf)
    assert scale(0.2) == 1
    assert scale(1.0) == 1
    assert scale(0.5) == 2.0
    assert scale(0.75) == 2.0
    assert scale(0.76) == 1
    for high in (NO_LIMIT, math.inf):
        assert interval(2.0, 0.5, high, lambda t: math.inf)(1.0) == 2.0
    edges = interval(2.0, 0.5, 3.0, lambda t: t)
    assert [edges(t) for t in (0.499, 0.5, 3.0, 3.001)] == [1, 2, 2, 1]


def labelled(seen):
    def estimate(x, t_B, condition):
        seen.append(condition.y_B.tolist())
        clean = x * condition.y_B.view(-1, 1, 1, 1)
        return clean, 100.0 * clean

    return estimate


def classifier_free(estimate, y_B, null, scale, channels="all"):
    own = Condition(y_B)
    return guided(of_conditions(estimate, {"own": own, "null": own.null(null)}), scale, channels)


def of_two(main, reference):
    """Estimates of two networks, asked one after the other."""
    both = {"strong": main, "weak": reference}
    return lambda x, t_B, names: {name: both[name](x, t_B) for name in names}


def test_both_branches_are_one_batch_and_the_variance_is_the_conditional_one():
    seen = []
    y_B = torch.tensor([1, 2, 3])
    clean, fraction = classifier_free(labelled(seen), y_B, 9, constant(2.5))(X, torch.zeros(3))
    assert seen == [[1, 2, 3, 9, 9, 9]]
    y = y_B.view(-1, 1, 1, 1)
    assert torch.allclose(clean, X * (9 + 2.5 * (y - 9)))
    assert torch.equal(fraction, 100.0 * (X * y))


def test_at_scale_1_the_null_branch_is_not_computed():
    seen = []
    y_B = torch.tensor([1, 2, 3])
    clean, fraction = classifier_free(labelled(seen), y_B, 9, constant(1.0))(X, torch.zeros(3))
    assert seen == [[1, 2, 3]]
    assert torch.equal(clean, X * y_B.view(-1, 1, 1, 1))
    assert torch.equal(fraction, 100.0 * clean)


def test_outside_the_interval_the_null_branch_is_not_computed():
    seen = []
    guide = interval(2.0, 0.5, 3.0, lambda t: t)
    estimate = classifier_free(labelled(seen), torch.tensor([1, 2, 3]), 9, guide)
    estimate(X, torch.full((3,), 4.0))
    estimate(X, torch.full((3,), 2.0))
    assert [len(labels) for labels in seen] == [3, 6]


def test_two_networks_agree_with_the_batched_form():
    """Guidance by another network (Karras et al. 2024) is the same extrapolation."""
    y_B = torch.tensor([1, 2, 3])
    estimate = labelled([])
    pair = of_two(
        lambda x, t: estimate(x, t, Condition(y_B)),
        lambda x, t: estimate(x, t, Condition(torch.full_like(y_B, 9))),
    )
    apart = guided(pair, constant(2.5), "first3", main="strong", reference="weak")
    batched = classifier_free(estimate, y_B, 9, constant(2.5), "first3")
    for one, other in zip(apart(X, torch.zeros(3)), batched(X, torch.zeros(3)), strict=True):
        assert torch.allclose(one, other)


def test_a_reference_that_is_not_needed_is_not_asked():
    def reference(x, t_B):
        raise AssertionError("asked at scale 1")

    pair = of_two(lambda x, t: (x + 1, None), reference)
    estimate = guided(pair, constant(1), main="strong", reference="weak")
    assert torch.equal(estimate(X, torch.zeros(3))[0], X + 1)
