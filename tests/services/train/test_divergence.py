"""A run that diverges keeps its last good checkpoint, and the command that is advised works."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
from torch import Tensor

from mdt_cli.artifacts.checkpoint import checkpoints, read_state
from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.services.events import CheckpointSaved, Note, Warned
from mdt_cli.services.train import loop
from mdt_cli.services.train.placement import Placement
from tests.services.training_kit import digests, make_cache, make_images, run, small

CALM = ("checkpoint.every=5", "checkpoint.keep_last=2", "training.clip_norm=0")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divergence")
    return make_cache(folder / "cache", make_images(folder / "images"))


@pytest.fixture(scope="module")
def good(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divergence") / "good"
    run(cache, folder, small(10, "optimizer.lr=1e-4", *CALM))
    return folder


def bad_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The gradient of these steps (from 1) is NaN."""
    count = iter(range(1, 1000))
    clip = Placement.clip

    def clipped(self: Placement, *rest: object) -> Tensor:
        norm = clip(self, *rest)  # type: ignore[arg-type]
        return norm * math.nan if next(count) in steps else norm

    monkeypatch.setattr(Placement, "clip", clipped)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_last_good_checkpoints_survive_and_the_advice_works(
    cache: Path, good: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    before = names(folder)
    with pytest.raises(MdtError, match="nothing was saved of them") as caught:
        run(cache, folder, small(400, "optimizer.lr=1e6", *CALM))
    assert names(folder) == before
    assert "it resumes from step-0000010" in str(caught.value.hint)
    events = run(cache, folder, small(20, "optimizer.lr=1e-5", *CALM))
    assert any("resuming" in e.text and "step 10" in e.text for e in events if isinstance(e, Note))
    assert names(folder) == ["step-0000015", "step-0000020"]


def test_a_checkpoint_of_ruined_weights_is_set_aside(
    cache: Path, good: Path, tmp_path: Path
) -> None:
    """The step that ruins has a finite gradient itself: what it saved is found out after it."""
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    wild = ("checkpoint.every=1", "checkpoint.keep_last=1", "training.clip_norm=0")
    with pytest.raises(MdtError, match="not finite in 20 steps") as caught:
        run(cache, folder, small(400, "optimizer.lr=1e30", *wild))
    assert names(folder)[0] == "diverged-step-0000011"
    assert "is now diverged-step-0000011" in caught.value.message
    assert "resumes from step-0000010" in str(caught.value.hint)
    run(cache, folder, small(11, "optimizer.lr=1e-4", *CALM))
    assert all(bool(t.isfinite().all()) for t in read_tensors(newest(folder)).values())


def newest(folder: Path) -> Path:
    return checkpoints(folder)[0] / "weights.safetensors"


def test_without_a_good_checkpoint_the_run_starts_again(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="not finite") as caught:
        run(
            cache,
            tmp_path / "run",
            small(400, "optimizer.lr=1e30", "checkpoint.every=1", *CALM[2:]),
        )
    assert "it resumes from its start" in str(caught.value.hint)
    run(cache, tmp_path / "run", small(3, "optimizer.lr=1e-4", *CALM))
    run(cache, tmp_path / "plain", small(3, "optimizer.lr=1e-4", *CALM))
    assert digests(tmp_path / "run", 3) == digests(tmp_path / "plain", 3)


def test_a_checkpoint_due_within_a_streak_comes_after_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at(monkeypatch, 4, 5, 6)
    events = run(cache, tmp_path / "run", small(9, *CALM))
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [7, 9]


def test_a_run_that_ends_within_a_streak_is_an_error(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at(monkeypatch, 7, 8)
    with pytest.raises(
        MdtError, match="step 8 was not saved; the newest checkpoint is step-0000005"
    ):
        run(cache, tmp_path / "run", small(8, *CALM))
    assert names(tmp_path / "run") == ["step-0000005"]


def test_a_signal_within_a_streak_saves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at(monkeypatch, 7, 8, 9)
    plain = loop.train_step

    def interrupted(state, *rest):  # type: ignore[no-untyped-def]
        if state.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(state, *rest)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(Stopped) as caught:
        run(cache, tmp_path / "run", small(20, *CALM))
    assert "step 8 was not saved; the newest checkpoint is step-0000005" in str(caught.value.saved)
    assert names(tmp_path / "run") == ["step-0000005"]


def test_rotation_waits_until_the_new_weights_gave_a_good_step(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at(monkeypatch, *range(11, 99))
    only = ("checkpoint.keep_last=1", *CALM[::2])
    with pytest.raises(MdtError) as caught:
        run(cache, tmp_path / "run", small(99, *only, "training.max_bad_steps=3"))
    assert "resumes from step-0000005" in str(caught.value.hint)
    assert names(tmp_path / "run") == ["diverged-step-0000010", "step-0000005"]


def test_a_checkpoint_that_an_earlier_version_saved_in_a_streak_is_passed_over(
    cache: Path, good: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    state = folder / "checkpoints" / "step-0000010" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"bad_steps": 19}))
    events = run(cache, folder, small(12, "optimizer.lr=1e-4", *CALM))
    assert any("saved after 19 steps" in e.text for e in events if isinstance(e, Warned))
    assert names(folder) == ["diverged-step-0000010", "step-0000010", "step-0000012"]
    assert read_state(folder / "checkpoints" / "step-0000012").bad_steps == 0
