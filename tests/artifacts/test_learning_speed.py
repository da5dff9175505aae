"""MIT, MLI and MLT against logs whose values are known by construction."""

import math

import pytest

from mdt_cli.artifacts.learning_speed import (
    LogRecord,
    hours_per_point,
    learning_speed,
    one_history,
)


def log(losses: list[float], every: int = 1, seconds: float = 0.5, batch: int = 8):
    return [
        LogRecord((k + 1) * every, (k + 1) * every * batch, loss, batch / seconds)
        for k, loss in enumerate(losses)
    ]


def test_a_loss_that_falls_all_the_time_has_a_new_minimum_at_every_iteration() -> None:
    speed = learning_speed(log([100.0 - k for k in range(100)]))
    assert speed is not None
    # The first full window ends at step 20, so 80 of the 100 averages succeed another one.
    assert (speed.mli, speed.minima, speed.iterations) == (1.0, 80, 100)
    assert speed.mit == pytest.approx(0.5, abs=1e-12)
    assert speed.mlt == pytest.approx(0.5, abs=1e-12)
    assert (speed.window, speed.resolution) == (20, 1)


def test_a_staircase_has_the_width_of_its_steps() -> None:
    losses = [10.0 - k if j == 4 else 10.0 for k in range(12) for j in range(5)]
    speed = learning_speed(log(losses), window=5)
    assert speed is not None
    # Windows of 5 hold one low value each; it is replaced by a lower one every 5 iterations.
    assert speed.mli == 5.0
    assert speed.mlt == pytest.approx(2.5, abs=1e-12)


def test_equal_averages_are_no_new_minimum() -> None:
    speed = learning_speed(log([3.0] * 50))
    assert speed is not None
    assert (speed.mli, speed.mlt, speed.minima) == (None, None, 0)
    assert speed.mit == pytest.approx(0.5, abs=1e-12)


def test_a_sparse_log_keeps_iterations_as_its_unit() -> None:
    speed = learning_speed(log([100.0 - k for k in range(40)], every=25))
    assert speed is not None
    # One record alone covers more than 20 iterations.
    assert (speed.window, speed.resolution, speed.mli) == (25, 25, 25.0)
    speed = learning_speed(log([100.0 - k for k in range(40)], every=8))
    assert speed is not None
    assert (speed.window, speed.resolution, speed.mli) == (24, 8, 8.0)
    assert speed.mit == pytest.approx(0.5, abs=1e-12)


def test_records_of_unequal_length_weigh_by_their_iterations() -> None:
    # Averages (5 x 0 + 15 x 4) / 20 = 3 and then 2.5; without weights 2 would come first.
    records = [
        LogRecord(5, 40, 0.0, 16.0),
        LogRecord(20, 160, 4.0, 16.0),
        LogRecord(40, 320, 2.5, 8.0),
    ]
    speed = learning_speed(records)
    assert speed is not None
    assert (speed.window, speed.resolution, speed.mli) == (20, 20, 20.0)
    # 160 images at 16 a second, 160 at 8 a second.
    assert speed.mit == pytest.approx((10 + 20) / 40, abs=1e-12)


def test_a_log_that_was_written_twice_counts_once() -> None:
    once = log([100.0 - k for k in range(60)])
    # Stopped at 45, went on from 30 (a log that was not rewound), then restarted from nothing.
    assert one_history(once[:45] + once[30:]) == once
    assert one_history(once[:45] + once) == once
    assert learning_speed(once[:45] + once[30:]) == learning_speed(once)


def test_losses_that_are_no_numbers_hide_their_windows_alone() -> None:
    losses = [100.0 - k for k in range(100)]
    losses[50] = math.nan
    speed = learning_speed(log(losses))
    assert speed is not None
    # Averages end at 20..50 and, once the NaN has left the window, at 71..100: one gap of 21.
    assert speed.minima == 30 + 1 + 29
    assert speed.mli == pytest.approx((30 + 21 + 29) / 60, abs=1e-12)


def test_nothing_to_measure() -> None:
    assert learning_speed([]) is None
    short = learning_speed(log([2.0, 1.0]))
    assert short is not None
    assert (short.mli, short.window, short.iterations) == (None, 0, 2)


def test_hours_per_point() -> None:
    assert hours_per_point(3.0, 12.0) == 0.25
    assert hours_per_point(3.0, 0.0) is None
    assert hours_per_point(3.0, -1.0) is None
