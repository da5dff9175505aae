"""Row order is a permutation per epoch and nothing else decides it."""

import pytest
import torch

from mdt_cli.core.row_order import row_at


def test_every_epoch_shows_every_row_once() -> None:
    rows = row_at(7, 13, torch.arange(39)).reshape(3, 13)
    assert all(sorted(epoch) == list(range(13)) for epoch in rows.tolist())
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 3


def test_order_does_not_depend_on_how_it_is_asked() -> None:
    whole = row_at(3, 10, torch.arange(50))
    backwards = row_at(3, 10, torch.arange(49, -1, -1))
    pieces = torch.cat([row_at(3, 10, torch.arange(k, k + 5)) for k in range(0, 50, 5)])
    assert torch.equal(whole, backwards.flip(0))
    assert torch.equal(whole, pieces)
    assert torch.equal(row_at(3, 10, torch.arange(50).reshape(5, 10)).flatten(), whole)


def test_seeds_differ() -> None:
    position = torch.arange(100)
    assert not torch.equal(row_at(0, 100, position), row_at(1, 100, position))


def test_global_random_state_plays_no_part() -> None:
    torch.manual_seed(1)
    first = row_at(11, 9, torch.arange(9))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(row_at(11, 9, torch.arange(9)), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_positions_are_a_callers_bug() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        row_at(0, 5, torch.tensor([-1]))
    with pytest.raises(ValueError, match="at least 1"):
        row_at(0, 0, torch.tensor([0]))
