"""One process, several, killed and resumed: the same report to the last digit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.metrics.stand_in import write_stand_in
from tests.pictures import png, write_folder
from tests.services.training_kit import ROOT

SCRIPT = ROOT / "tests" / "services" / "evaluate" / "evaluate_here.py"


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    samples = write_folder(tmp_path / "samples", {f"{i:06d}.png": png(i) for i in range(37)})
    reference = write_folder(tmp_path / "real", {f"{i}.png": png(500 + i) for i in range(21)})
    monkeypatch.setenv("STAND_IN", write_stand_in(tmp_path / "stand-in.pt"))
    return [str(samples), str(reference), "--weights", str(tmp_path / "stand-in.pt")]


def start(words: list[str], out: Path, processes: int = 1, **more: str) -> subprocess.Popen[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*launcher, str(SCRIPT), "evaluate", *words, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return told


def test_the_number_of_processes_changes_no_byte(words: list[str], tmp_path: Path) -> None:
    written = []
    for processes in (1, 2, 3):
        out = tmp_path / f"{processes}.json"
        finish(start(words, out, processes))
        written.append(out.read_bytes())
        assert not out.with_suffix(".work").exists()
    assert written[0] == written[1] == written[2]
    finish(start([*words, "--batch-size", "3"], tmp_path / "b.json", 2))
    assert (tmp_path / "b.json").read_bytes() == written[0]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_extraction_goes_on(words: list[str], tmp_path: Path, signum: int) -> None:
    out = tmp_path / "killed.json"
    process = start(words, out, SLEEP="0.05")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("killed.work/*/*.json"))) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    _, told = process.communicate(timeout=60)
    assert not out.exists()
    if signum == signal.SIGTERM:
        assert process.returncode == 143
        assert "run the same command again to resume" in told
    damaged = sorted(tmp_path.glob("killed.work/*/*.safetensors"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    told = finish(start(words, out))
    assert "have features from an earlier run; resuming" in told
    finish(start(words, tmp_path / "straight.json"))
    assert out.read_bytes() == (tmp_path / "straight.json").read_bytes()


def test_other_images_are_not_mistaken_for_the_finished_ones(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "killed.json"
    process = start(words, out, SLEEP="0.05")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("killed.work/*/*.json"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (tmp_path / "real" / "0.png").write_bytes(png(999))
    finish(start(words, out))
    finish(start(words, tmp_path / "straight.json"))
    assert out.read_bytes() == (tmp_path / "straight.json").read_bytes()
    assert json.loads(out.read_text())["reference"]["count"] == 21


def lone(words: list[str], out: Path, rank: int, **more: str) -> subprocess.Popen[str]:
    """One of two processes, started by hand."""
    return start(words, out, RANK=str(rank), WORLD_SIZE="2", **more)


def records(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many shards are finished."""
    deadline = time.monotonic() + 60
    while len(list(out.with_suffix(".work").glob("*/*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_process_can_be_stopped_while_it_waits(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    process = lone(words, out, 0)
    # 37 and 21 images in shards of 8 are 5 and 3, every second one of which is its own.
    records(out, 4, process)
    time.sleep(1)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    # Two looks are 0.4 s; the rest is the interpreter's end on a busy machine.
    assert time.monotonic() - begun < 5
    assert process.returncode == 143
    assert "Finished features are kept" in told


def test_the_first_process_says_what_it_waits_for_and_goes_on(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "r.json"
    finish(start(words, tmp_path / "straight.json"))
    first = lone(words, out, 0, PATIENCE="0.5")
    records(out, 4, first)
    time.sleep(2)
    assert first.poll() is None
    finish(lone(words, out, 1))
    told = finish(first)
    assert "waiting for features of other processes" in told
    assert "features-0000" in told
    assert "all 2 processes must run" in told
    assert out.read_bytes() == (tmp_path / "straight.json").read_bytes()
    assert not out.with_suffix(".work").exists()


def test_a_process_that_comes_late_is_waited_for(words: list[str], tmp_path: Path) -> None:
    """Else it would find its features gone and make them all again, with nobody to remove them."""
    out, work = tmp_path / "r.json", tmp_path / "r.work"
    finish(lone(words, out, 1))
    marks = list(work.glob("finished-*"))
    assert len(marks) == 1
    marks[0].unlink()
    first = lone(words, out, 0, PATIENCE="0.5")
    records(out, 8, first)
    time.sleep(2)
    assert first.poll() is None
    finish(lone(words, out, 1))
    assert "finished-1" in finish(first)
    assert not work.exists()


def test_a_damaged_shard_of_another_process_is_waited_for(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    finish(lone(words, out, 1))
    damaged = sorted(out.with_suffix(".work").glob("*/*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    # Of another start, whose name is another.
    (out.with_suffix(".work") / "finished-1-of-2-00000000").touch()
    first = lone(words, out, 0)
    records(out, 8, first)
    time.sleep(1)
    assert first.poll() is None
    finish(lone(words, out, 1))
    assert "extracted again" not in finish(first)
    assert not out.with_suffix(".work").exists()
    finish(start(words, tmp_path / "straight.json"))
    assert out.read_bytes() == (tmp_path / "straight.json").read_bytes()
