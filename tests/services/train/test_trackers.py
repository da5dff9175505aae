"""TensorBoard gets the numbers; a tracker that breaks is told once and never ends a run."""

import sys
from pathlib import Path

import pytest

from mdt_cli.config.training import LogConfig
from mdt_cli.services.events import TrainingDone, Warned
from mdt_cli.services.train.trackers import Trackers
from tests.services.training_kit import log_of, make_cache, make_images, run, small


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trackers")
    return make_cache(folder / "cache", make_images(folder / "images"))


def test_tensorboard_gets_what_the_log_gets(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(cache, tmp_path / "run", small(3, "log.tensorboard=true", "validation.every=3"))
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    seen = {event.step: event.value for event in read.Scalars("loss")}
    wanted = {entry["step"]: entry["loss"] for entry in log_of(tmp_path / "run")}
    assert seen == pytest.approx(wanted, rel=1e-6)
    assert "held-out/full/online" in read.Tags()["scalars"]


def test_a_missing_tracker_is_a_warning(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    events = run(cache, tmp_path / "run", small(3, "log.wandb=true"))
    assert isinstance(events[-1], TrainingDone)
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert len(warnings) == 1
    assert warnings[0].startswith("wandb is disabled")


def test_a_tracker_that_breaks_later_is_dropped(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = Trackers(LogConfig(tensorboard=True), tmp_path, "id", {})
    trackers.log(1, {"loss": 1.0})
    trackers.log(2, {"loss": "not a number"})  # type: ignore[dict-item]
    trackers.log(3, {"loss": 1.0})
    trackers.close()
    assert len(trackers.new_warnings()) == 1
