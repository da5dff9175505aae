"""Shards are shared out completely, once each, and the others' are waited for."""

from collections.abc import Sequence

import pytest

from mdt_cli.services import work
from mdt_cli.services.work import Share, poll


@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_shard_belongs_to_one_process(count: int, before: int) -> None:
    shares = [Share(rank, 3) for rank in range(3)]
    dealt = [index for share in shares for index in share.mine(count, before)]
    assert sorted(dealt) == list(range(count))
    for share in shares:
        assert sorted([*share.mine(count, before), *share.others(count, before)]) == sorted(dealt)


def test_a_set_begins_where_the_one_before_it_ended() -> None:
    """Sets of one shard each do not all go to the first process."""
    first = [rank for rank in range(3) for _ in Share(rank, 3).mine(1, before=0)]
    second = [rank for rank in range(3) for _ in Share(rank, 3).mine(1, before=1)]
    assert (first, second) == ([0], [1])


def test_the_environment_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Share.from_environment() == Share(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Share.from_environment() == Share(2, 4)


def test_polling_asks_only_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "SECONDS_BETWEEN_POLLS", 0.0)
    asked: list[list[int]] = []

    def absent(shards: Sequence[int]) -> list[int]:
        asked.append(list(shards))
        return list(shards)[1:]

    assert list(poll([3, 5, 8], absent)) == [[5, 8], [8]]
    assert asked == [[3, 5, 8], [5, 8], [8]]
    assert list(poll([], absent)) == []
