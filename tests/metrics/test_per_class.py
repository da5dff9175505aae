import pytest
import torch

from mdt_cli.metrics.frechet import frechet_distance
from mdt_cli.metrics.kernel import kernel_distance
from mdt_cli.metrics.per_class import class_scores, matched


def normal(count: int, shift: float, seed: int, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_shifted_class_is_the_worst() -> None:
    samples = torch.cat([normal(5, 0, 1), normal(5, 3, 2)])
    reference = torch.cat([normal(6, 0, 3), normal(6, 0, 4)])
    found = class_scores(samples, ["a"] * 5 + ["b"] * 5, reference, ["a"] * 6 + ["b"] * 6)
    assert found.rule == "kernel"
    assert [score.name for score in found.scores] == ["b", "a"]
    alone = kernel_distance(samples[5:], reference[6:])
    assert found.scores[0].value == alone.value
    assert found.scores[0].standard_error == alone.standard_error is not None
    assert (found.scores[0].samples, found.scores[0].reference) == (5, 6)


def test_enough_rows_make_it_a_frechet_distance() -> None:
    samples, reference = normal(16, 1, 1), normal(16, 0, 2)
    found = class_scores(samples, ["a", "b"] * 8, reference, ["b", "a"] * 8)
    assert found.rule == "frechet"
    ours, theirs = samples[::2].double(), reference[1::2].double()
    expected = frechet_distance(ours.mean(0), ours.T.cov(), theirs.mean(0), theirs.T.cov())
    assert {s.name: s.value for s in found.scores}["a"] == pytest.approx(expected)
    assert all(score.standard_error for score in found.scores)


def test_classes_without_images_have_no_score_and_come_last() -> None:
    found = class_scores(normal(3, 0, 1), ["a", "a", "c"], normal(4, 0, 2), ["a", "a", "b", "b"])
    told = [(s.name, s.samples, s.reference, s.value is None) for s in found.scores]
    assert told == [("a", 2, 2, False), ("b", 0, 2, True), ("c", 1, 0, True)]


def test_classes_of_two_sets_in_the_same_words() -> None:
    assert matched(["cat"], ["cat", "dog"]) == (["cat"], ["cat", "dog"])
    assert matched(["1", "0"], ["cat", "dog"]) == (["dog", "cat"], ["cat", "dog"])
    assert matched(["cat", "dog"], ["0", "1"]) == (["cat", "dog"], ["cat", "dog"])
    assert matched(["2"], ["cat", "dog"]) is None
    assert matched(["bird"], ["cat", "dog"]) is None
    assert matched(None, ["cat"]) is None
