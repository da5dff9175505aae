import numpy as np
import pytest

from mdt_cli.metrics.intervals import (
    Z95,
    Score,
    confidence_interval,
    is_tie,
    share_error,
    share_interval,
)


def test_two_draws_of_one_score_tie_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(0)
    pairs = draw.normal(3, [0.5, 1.2], size=(4000, 2))
    ties = np.mean([is_tie(Score(a, 0.5), Score(b, 1.2)) for a, b in pairs])
    assert 0.94 < ties < 0.96


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(1)
    spans = [confidence_interval(Score(value, 2.0)) for value in draw.normal(7, 2, size=4000)]
    held = np.mean([span[0] <= 7 <= span[1] for span in spans if span])
    assert 0.94 < held < 0.96


def test_without_errors_only_equal_values_tie() -> None:
    assert is_tie(Score(1), Score(1))
    assert not is_tie(Score(1), Score(1 + 1e-9))
    assert is_tie(Score(1), Score(1.9, 0.5))
    assert confidence_interval(Score(1)) is None


def test_share_error() -> None:
    draws = np.random.default_rng(2).binomial(500, 0.3, size=5000) / 500
    assert abs(share_error(0.3, 500) - draws.std()) < 5e-4


def test_the_interval_of_a_share_holds_the_truth_near_its_ends_too() -> None:
    """Half of these draws are 0 of 100: an interval without width holds nothing there."""
    draws = np.random.default_rng(3).binomial(100, 0.007, size=4000) / 100
    spans = [share_interval(share, 100) for share in draws]
    assert np.mean([low <= 0.007 <= high for low, high in spans]) > 0.94
    assert share_interval(0.0, 100)[0] == 0
    low, high = share_interval(1.0, 100)
    # Wilson's lower end of n of n is n / (n + z^2).
    assert (low, high) == (pytest.approx(100 / (100 + Z95**2)), 1)
    assert share_error(1.0, 100) == pytest.approx((high - low) / (2 * Z95))


def test_nearly_all_and_all_are_no_difference() -> None:
    """Two sets of 100, each image in with probability 0.99, hardly ever differ."""
    draws = np.random.default_rng(4).binomial(100, 0.99, size=(4000, 2)) / 100
    pairs = [[Score(share, share_error(share, 100)) for share in pair] for pair in draws.tolist()]
    assert np.mean([is_tie(*pair) for pair in pairs]) > 0.94
    assert is_tie(*(Score(share, share_error(share, 100)) for share in (1.0, 0.985)))
