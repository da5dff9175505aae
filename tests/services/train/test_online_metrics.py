"""Scores while training: they come, and they change nothing."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdt_cli.artifacts.checkpoint import checkpoints
from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.services.events import Event, Note, ScoresDone, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train import online_metrics as scoring
from mdt_cli.services.train.look import Look
from mdt_cli.services.train.online_metrics import Scorer
from tests.services.training_kit import (
    assignments,
    command,
    digests,
    environment,
    make_cache,
    make_images,
    mdt,
    run,
    small,
)

WATCH = (
    "evaluation.every=3",
    "evaluation.count=10",
    "evaluation.reference=12",
    "evaluation.steps=2",
    "evaluation.batch_size=4",
    'evaluation.metrics=["fid", "kid", "is", "precision", "recall", "density", "coverage"]',
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    return make_cache(folder / "cache", make_images(folder / "images"))


def bits(folder: Path, step: int) -> dict[str, dict[str, str]]:
    """Digests of a checkpoint's tensors; the headers hold the configuration, which differs."""
    checkpoint = folder / "checkpoints" / f"step-{step:07d}"
    return {
        name: {
            key: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for key, tensor in read_tensors(checkpoint / name).items()
        }
        for name in digests(folder, step)
    }


def metrics_of(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "evaluation/" in str(record)]


def test_scores_come_and_the_run_keeps_its_bits(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "plain", small(7))
    events = run(cache, tmp_path / "scored", small(7, *WATCH))
    assert bits(tmp_path / "scored", 7) == bits(tmp_path / "plain", 7)
    scored = [event for event in events if isinstance(event, ScoresDone)]
    assert [event.step for event in scored] == [3, 6, 7]
    names = ("fd", "kid", "is", "precision", "recall", "density", "coverage")
    assert list(scored[0].scores) == [f"{name}_efficientnet_lite0" for name in names]
    assert scored[0].scores["fd_efficientnet_lite0"] > 0
    assert scored[0].scores != scored[1].scores
    records = metrics_of(tmp_path / "scored")
    assert [record["step"] for record in records] == [3, 6, 7]
    kept = "evaluation/kid_efficientnet_lite0"
    assert records[1][kept] == scored[1].scores["kid_efficientnet_lite0"]
    assert any("1 more times" in event.text for event in events if isinstance(event, Note))


def test_a_run_without_scores_loads_no_metric(cache: Path, tmp_path: Path) -> None:
    words = ["pretrain", str(cache), str(tmp_path / "run"), *assignments(2)]
    code = (
        "import sys; from mdt_cli.cli.app import run; "
        f"print(run({words!r})); "
        "rooms = ('mdt_cli.metrics', 'mdt_cli.services.evaluate'); "
        "print([name for name in sys.modules if name.startswith(rooms)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.stdout.splitlines()[-2:] == ["0", "[]"], done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-0000002").is_dir()


def test_scores_that_are_there_when_a_signal_comes_are_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Scorer._shared

    def stopped(self: Scorer, look: Look, stop: Stop, *rest: Any) -> Generator[Event, None, Tensor]:
        rows = yield from shared(self, look, stop, *rest)
        if rest[-1] == "scoring":
            stop.signum, stop.heard = signal.SIGTERM, True
        return rows

    monkeypatch.setattr(Scorer, "_shared", stopped)
    with pytest.raises(Stopped):
        run(cache, tmp_path / "run", small(7, *WATCH))
    assert [record["step"] for record in metrics_of(tmp_path / "run")] == [3]


def test_a_resumed_run_scores_the_same_with_the_kept_reference(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "whole", small(6, *WATCH))
    run(cache, tmp_path / "parts", small(3, *WATCH))
    kept = list((tmp_path / "parts" / "evaluation").iterdir())
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    events = run(cache, tmp_path / "parts", small(6, *WATCH))
    assert kept[0].stat().st_mtime_ns == before
    assert not any("are kept in" in event.text for event in events if isinstance(event, Note))
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    events = run(cache, tmp_path / "parts", small(9, *WATCH))
    assert any(
        "is damaged; extracting" in event.text for event in events if isinstance(event, Warned)
    )
    assert torch.equal(
        read_tensors(kept[0])["features"],
        read_tensors(next((tmp_path / "whole" / "evaluation").iterdir()))["features"],
    )


def test_scores_that_cannot_be_are_not_tried_at_every_start(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scoring,
        "extract_batch",
        lambda extractor, images: torch.full((len(images), 1280), torch.nan),
    )
    events = run(cache, tmp_path / "run", small(3, *WATCH))
    assert any("hold NaN" in event.text for event in events if isinstance(event, Warned))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    events = run(cache, tmp_path / "run", small(3, *WATCH))
    assert not any(isinstance(event, Warned) for event in events)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_signal_is_heard_by_a_finished_run_that_makes_up_for_scores(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(3, *WATCH))
    (folder / "metrics.jsonl").unlink()

    def stopped(self: Scorer, look: Look, stop: Stop) -> Generator[Event, None, None]:
        stop.signum, stop.heard = signal.SIGTERM, True
        yield Warned("stopped")

    monkeypatch.setattr(Scorer, "score", stopped)
    with pytest.raises(Stopped):
        run(cache, folder, small(3, *WATCH))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ('evaluation.metrics=["sfid"]', "sfid cannot be computed while training"),
        ("evaluation.count=3", "at least 6 on both sides"),
        ("evaluation.steps=5000", "5000"),
    ],
)
def test_what_cannot_be_scored_is_told_before_the_first_step(
    cache: Path, tmp_path: Path, assignment: str, message: str
) -> None:
    with pytest.raises(MdtError, match=message):
        run(cache, tmp_path / "run", small(2, *WATCH, assignment))
    assert not (tmp_path / "run").exists()


def test_the_first_average_is_scored(cache: Path, tmp_path: Path) -> None:
    one = run(cache, tmp_path / "one", small(3, *WATCH))
    other = run(cache, tmp_path / "other", small(3, *WATCH, "ema.decays=[0.99, 0.9]"))
    ours, theirs = (
        next(event.scores for event in events if isinstance(event, ScoresDone))
        for events in (one, other)
    )
    assert ours["kid_efficientnet_lite0"] != theirs["kid_efficientnet_lite0"]


def trained(cache: Path, folder: Path, processes: int, *extra: str, steps: int = 4) -> Path:
    words = assignments(steps, *extra)
    done = mdt("pretrain", str(cache), str(folder), *words, processes=processes)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_share_the_scoring_and_nothing_else_changes(
    cache: Path, tmp_path: Path
) -> None:
    # At this rate no weight moves by as much as float32 can hold; else those of two processes
    # would differ in the last digits, because gradients are added in another order.
    still = "optimizer.lr=1e-30"
    # 10 samples in batches of 4 are three: the second round has one process idle.
    one, two = (trained(cache, tmp_path / str(n), n, *WATCH, still) for n in (1, 2))
    assert [record["step"] for record in metrics_of(two)] == [3, 4]
    assert metrics_of(one) == metrics_of(two)
    references = [next((folder / "evaluation").iterdir()) for folder in (one, two)]
    assert references[0].read_bytes() == references[1].read_bytes()
    # The optimizer's moments are among the bits: a changed gradient would show.
    plain = trained(cache, tmp_path / "plain", 2, still)
    assert bits(two, 4) == bits(plain, 4)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_is_heard_while_scoring(cache: Path, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    words = [str(cache), str(folder), *assignments(9, *WATCH, "evaluation.count=50000")]
    process = subprocess.Popen(
        command("pretrain", *words, processes=processes),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("evaluation/reference-*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    # A batch of 4 takes a fraction of a second, all 12,500 of them more than an hour; torchrun
    # kills what has not gone by itself after 30 s.
    assert time.monotonic() - begun < 20
    assert "no scores" in told
    assert "Saved step 3 of 9" in told
    assert [state.name for state in checkpoints(folder)] == ["step-0000003"]
    assert not (folder / "metrics.jsonl").is_file()
    if processes == 1:
        assert process.returncode == 143
        # By commands too: sums depend on the number of threads, and commands have one here.
        folders = (trained(cache, x, 1, steps=5) for x in (folder, tmp_path / "straight"))
        resumed, straight = (bits(x, 5) for x in folders)
        assert resumed == straight
