import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from mdt_cli.metrics.inception_score import inception_score
from tests.reference import metrics as reference


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(n, 12, generator=generator)
    return (
        features_ND,
        torch.randn(20, 12, generator=generator),
        torch.randn(20, generator=generator),
    )


def test_equals_the_definition_with_and_without_bias() -> None:
    features_ND, head_CD, bias_C = problem(50)
    for bias in (bias_C, None):
        logits = features_ND.double() @ head_CD.double().T + (0 if bias is None else bias.double())
        expected = reference.inception_score(logits.softmax(1).numpy())
        found = inception_score(features_ND, head_CD, bias)
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert found.deviation is None


def test_splits_equal_torch_fidelity() -> None:
    features_ND, head_CD, bias_C = problem(103)
    found = inception_score(features_ND, head_CD, bias_C, split=20)
    logits = features_ND.double() @ head_CD.double().T + bias_C.double()
    parts = [reference.inception_score(part.softmax(1).numpy()) for part in logits.tensor_split(5)]
    assert found.num_splits == 5
    assert found.value == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(parts), rel=1e-9)
    theirs = isc_features_to_metric(logits[:100], splits=5, shuffle=False)
    even = inception_score(features_ND[:100], head_CD, bias_C, split=20)
    assert even.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert even.deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_a_sure_and_varied_classifier_scores_the_number_of_classes() -> None:
    found = inception_score(torch.eye(6).repeat(4, 1) * 1000, torch.eye(6), None)
    assert found.value == pytest.approx(6, rel=1e-12)


def test_the_error_is_the_spread_of_many_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    head_CD = torch.randn(10, 12, generator=generator)
    found = [
        inception_score(torch.randn(400, 12, generator=generator), head_CD, None, split=200)
        for _ in range(300)
    ]
    spread = np.std([one.value for one in found])
    assert 0.9 < np.mean([one.standard_error for one in found]) / spread < 1.15


def test_a_class_no_image_has_costs_nothing() -> None:
    """Its probability underflows to 0 everywhere; 0 log 0 is 0."""
    features_ND = torch.eye(3).repeat(4, 1)
    head_CD = torch.cat([torch.eye(3) * 2000, torch.full((1, 3), -9000.0)])
    assert inception_score(features_ND, head_CD, None).value == pytest.approx(3, rel=1e-12)
