"""What a rerun may and may not do to a run, and where the advice of our sentences leads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mdt_cli.artifacts.checkpoint import checkpoints
from mdt_cli.config.load import load_config
from mdt_cli.config.training import TrainingConfig
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Note, Validated, Warned
from mdt_cli.services.model import find_weights
from mdt_cli.services.train.placement import even_shares
from tests.services.training_kit import (
    SMALL,
    assignments,
    log_of,
    make_cache,
    make_images,
    mdt,
    run,
    small,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    return make_cache(folder / "cache", make_images(folder / "images"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def damage(checkpoint: Path) -> None:
    file = checkpoint / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.exists()}


def test_a_run_without_any_whole_checkpoint_is_left_as_it_is(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(6, "checkpoint.every=3"))
    for checkpoint in checkpoints(folder):
        damage(checkpoint)
    before = contents(folder)
    with pytest.raises(MdtError, match="step-0000006, step-0000003") as caught:
        run(cache, folder, small(8))
    assert "--fresh twice" in str(caught.value.hint)
    assert contents(folder) == before
    run(cache, folder, small(2), fresh=2)
    assert names(folder) == ["step-0000002"]


def test_a_checkpoint_of_another_format_is_no_damage(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(6, "checkpoint.every=3"))
    state = folder / "checkpoints" / "step-0000006" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 2}))
    before = contents(folder)
    with pytest.raises(MdtError, match=r"step-0000006/state.json has format 2; this mdt reads 1"):
        run(cache, folder, small(8))
    with pytest.raises(MdtError, match="has format 2"):
        find_weights(folder, None)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors"])
def test_a_checkpoint_that_the_system_does_not_give_is_no_damage(
    cache: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(6, "checkpoint.every=3"))
    file = folder / "checkpoints" / "step-0000006" / name
    file.unlink()
    file.symlink_to(file)  # may not be read by anyone, root included
    with pytest.raises(MdtError, match=f"cannot read .*{name}: Too many levels") as caught:
        run(cache, folder, small(8))
    assert "step-0000006 away" in str(caught.value.hint)
    assert names(folder) == ["step-0000003", "step-0000006"]
    assert len(log_of(folder)) == 6


def test_a_damaged_newest_checkpoint_is_moved_aside(cache: Path, tmp_path: Path) -> None:
    """Rotation would take it for the newest, and what is written after the fallback for old."""
    folder = tmp_path / "run"
    keep = ("checkpoint.every=4", "checkpoint.keep_last=1", "checkpoint.keep_every=4")
    run(cache, folder, small(8, *keep))
    for _ in range(2):
        damage(folder / "checkpoints" / "step-0000008")
        events = run(cache, folder, small(6, *keep))
        told = [event.text for event in events if isinstance(event, Warned)]
        assert any("step-0000008 is damaged and was renamed to" in text for text in told)
        assert "step-0000006" in names(folder)
        run(cache, folder, small(8, *keep))
    aside = ["damaged-step-0000008", "damaged-step-0000008-1"]
    assert names(folder) == [*aside, "step-0000004", "step-0000008"]


def test_two_processes_fall_back_together(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    looks = ("checkpoint.every=2", "validation.every=2")
    run(cache, folder, small(4, *looks))
    damage(folder / "checkpoints" / "step-0000004")
    words = ["pretrain", str(cache), str(folder), *assignments(6, *looks)]
    metrics = folder / "metrics.jsonl"
    metrics.unlink()
    done = mdt(*words, processes=2)
    assert done.returncode == 0, done.stderr
    assert "step-0000004 is damaged and was renamed to" in done.stderr
    damaged, *whole = names(folder)
    assert damaged == "damaged-step-0000004"
    assert whole == [f"step-{step:07d}" for step in (2, 4, 6)]
    assert [entry["step"] for entry in log_of(folder)] == list(range(1, 7))
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [2, 4, 6]


@pytest.mark.parametrize("steps", [4, 6])
def test_what_a_kill_took_after_the_last_checkpoint_is_made_up_for(
    cache: Path, tmp_path: Path, steps: int
) -> None:
    """Where the step is the last one, and where it is one of several that are looked at."""
    folder = tmp_path / "run"
    looks = ("validation.every=2", "preview.every=2", "preview.steps=2", "checkpoint.every=2")
    run(cache, folder, small(4, *looks))
    metrics, preview = folder / "metrics.jsonl", folder / "samples" / "step-0000004.png"
    whole, picture = metrics.read_text(), preview.read_bytes()
    metrics.write_text(whole.splitlines(keepends=True)[0])
    preview.unlink()
    events = run(cache, folder, small(steps, *looks))
    assert metrics.read_text().splitlines()[:2] == whole.splitlines()
    assert preview.read_bytes() == picture
    assert [e.step for e in events if isinstance(e, Validated)] == ([4] if steps == 4 else [4, 6])
    again = run(cache, folder, small(steps, *looks))
    assert not any(isinstance(event, Validated) for event in again)


def test_leftovers_of_killed_runs_are_removed(cache: Path, tmp_path: Path) -> None:
    """Those of a process that still runs stay, those that bear our own number go."""
    folder = tmp_path / "run"
    run(cache, folder, small(2))
    running = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = f".tmp-{running.pid}-step-0000003"
    gone = (f".tmp-{ended.pid}-step-0000003", f".tmp-{os.getpid()}-step-0000004")
    for name in (kept, *gone, ".tmp-old-step-0000001"):
        (folder / "checkpoints" / name).mkdir()
        (folder / "checkpoints" / name / "weights.safetensors").write_bytes(b"half")
    try:
        run(cache, folder, small(4))
    finally:
        running.communicate()
    assert names(folder) == [kept, "step-0000002", "step-0000004"]


def test_what_saves_a_diverging_run_may_be_set_on_the_way(cache: Path, tmp_path: Path) -> None:
    """As the sentence advises: a finite start, then a rate that is not, then the advice."""
    folder, wild = tmp_path / "run", ("training.max_bad_steps=3", "log.every=1")
    run(cache, folder, small(4, "training.clip_norm=0"))
    with pytest.raises(MdtError, match="not finite in 3 steps in a row") as caught:
        run(cache, folder, small(400, "training.clip_norm=0", "optimizer.lr=1e30", *wild))
    assert "lower --set optimizer.lr=..., --set training.clip_norm=1" in str(caught.value.hint)
    calm = ("optimizer.lr=5e-4", "training.clip_norm=1", *wild)
    events = run(cache, folder, small(6, *calm))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "changed after step 4: optimizer.lr: 1e+30 -> 0.0005" in notes
    assert [entry["lr"] for entry in log_of(folder)] == [1e-3] * 4 + [5e-4] * 2
    written = [
        line for line in (folder / "config.toml").read_text().splitlines() if "after" in line
    ]
    assert written == [
        "# changed after step 4: optimizer.lr: 0.001 -> 1e+30",
        "# changed after step 4: optimizer.lr: 1e+30 -> 0.0005",
        "# changed after step 4: training.clip_norm: 0.0 -> 1.0",
    ]
    # Left out, or from a preset, it is another configuration as ever.
    preset = tmp_path / "own.toml"
    preset.write_text("[optimizer]\nlr = 2e-4\n")
    words = [text for text in SMALL if "optimizer.lr" not in text]
    with pytest.raises(MdtError, match=r"optimizer\.lr: 0\.0005 in the run"):
        run(cache, folder, load_config(["mdtv2", str(preset)], [*words, "training.steps=8"]))


@pytest.mark.parametrize(
    ("batch", "size", "processes", "asked"),
    [
        (256, 0, 8, "use --set training.micro_batch_size=32,"),
        (192, 32, 4, "use --set training.micro_batch_size=24,"),
        (256, 0, 3, "use --set training.batch_size=258 --set training.micro_batch_size=86,"),
        (2, 0, 3, "use --set training.batch_size=3 --set training.micro_batch_size=1,"),
    ],
)
def test_the_sizes_advised_share_out_evenly(
    batch: int, size: int, processes: int, asked: str
) -> None:
    before = TrainingConfig(batch_size=batch, micro_batch_size=size)
    advice = even_shares(before, processes)
    assert advice.startswith(asked)
    keys = {k: int(v) for k, v in re.findall(r"training\.(\w+)=(\d+)", advice)}
    after = TrainingConfig(**{"batch_size": batch, **keys})
    assert after.num_micro_batches % processes == 0
