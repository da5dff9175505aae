"""A training run that waits for processes that nobody started."""

import time
from datetime import timedelta

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.services.events import Warned
from mdt_cli.services.train import met


def test_without_a_place_to_meet_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(MdtError, match=r"say that 4 processes .* MASTER_ADDR are not set") as error:
        list(met.met("no", "cpu"))
    assert "unset RANK WORLD_SIZE MASTER_PORT" in str(error.value.hint)


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(met, "SECONDS_UNTIL_NOTE", 0.1)
    monkeypatch.setattr(met, "LONGEST_MEETING", timedelta(seconds=0.6))
    monkeypatch.setattr(met, "place", waits_for_ever)
    told: list[Warned] = []
    with pytest.raises(MdtError, match="but not all of them came"):
        told.extend(event for event in met.met("no", "cpu") if isinstance(event, Warned))
    events = met.met("no", "cpu")
    warned = next(events)
    assert isinstance(warned, Warned)
    assert warned.from_all
    assert "waiting for them" in warned.text
    events.close()


def waits_for_ever(precision: str, device: str | None) -> None:
    time.sleep(2)


def test_what_goes_wrong_in_the_thread_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(precision: str, device: str | None) -> None:
        raise MdtError("no such device")

    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(met, "place", fails)
    with pytest.raises(MdtError, match="no such device"):
        list(met.met("no", "cpu"))
