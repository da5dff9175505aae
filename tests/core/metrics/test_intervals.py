import numpy as np

from mdt_cli.core.metrics.intervals import Score, interval, is_tie, share_error


def test_two_draws_of_one_score_tie_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(0)
    pairs = draw.normal(3, [0.5, 1.2], size=(4000, 2))
    ties = np.mean([is_tie(Score(a, 0.5), Score(b, 1.2)) for a, b in pairs])
    assert 0.94 < ties < 0.96


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(1)
    spans = [interval(Score(value, 2.0)) for value in draw.normal(7, 2, size=4000)]
    held = np.mean([span[0] <= 7 <= span[1] for span in spans if span])
    assert 0.94 < held < 0.96


def test_without_errors_only_equal_values_tie() -> None:
    assert is_tie(Score(1), Score(1))
    assert not is_tie(Score(1), Score(1 + 1e-9))
    assert is_tie(Score(1), Score(1.9, 0.5))
    assert interval(Score(1)) is None


def test_share_error() -> None:
    draws = np.random.default_rng(2).binomial(500, 0.3, size=5000) / 500
    assert abs(share_error(0.3, 500) - draws.std()) < 5e-4
    assert share_error(1, 10) == 0
