"""The rate and the time left that a bar shows."""

import pytest

from mdt_cli.cli.progress import Pace


def test_the_rate_is_that_of_the_last_minute():
    pace = Pace()
    for second in range(600):
        pace.rate(second, 10 * second, 10**6)
    # The machine is ten times slower from here: a mean since the start would still say nine.
    for second in range(600, 700):
        rate = pace.rate(second, 6000 + (second - 600), 10**6)
    assert rate == pytest.approx(1, rel=0.02)


def test_rare_updates_use_the_last_point_before_the_window():
    pace = Pace()
    assert pace.rate(0, 0, 10) == 0
    assert pace.rate(100, 1, 10) == pytest.approx(0.01)
    assert pace.rate(300, 2, 10) == pytest.approx(0.005)


def test_the_end_shows_the_mean_of_all():
    pace = Pace()
    for second in range(101):
        pace.rate(second, min(second, 50), 51)
    assert pace.rate(102, 51, 51) == pytest.approx(51 / 102)


def test_what_an_earlier_run_did_is_not_in_the_rate_and_other_work_begins_anew():
    pace = Pace()
    assert pace.rate(0, 900, 1000) == 0
    assert pace.rate(10, 910, 1000) == pytest.approx(1)
    assert pace.rate(11, 5, 50) == 0
    assert pace.rate(12, 7, 50) == pytest.approx(2)
    assert pace.rate(13, 6, 50) == pytest.approx(0.5)
    assert pace.rate(14, 4, 50) == 0


def test_many_updates_a_second_keep_few_points():
    pace = Pace()
    for tick in range(100_000):
        pace.rate(tick / 1000, tick, 10**6)
    assert len(pace._past) <= 122
