"""`mdt encode-latents` as a person runs it: exit codes, what is data and what is talk, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pictures import class_files, write_folder

ROOT = Path(__file__).resolve().parents[2]


def mdt(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdt_cli", "encode-latents", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_json_is_all_of_stdout(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", class_files() | {"a/x.png": b"text"})
    done = mdt(images, tmp_path / "cache", "--size", 16, "--workers", 0, "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["count"], told["classes"]) == (15, {"a": 5, "b": 5, "c": 5})
    assert told["skipped"] == [{"name": "a/x.png", "reason": "not an image of a known format"}]
    assert "skipped a/x.png" in done.stderr
    again = mdt(images, tmp_path / "cache", "--size", 16, "--workers", 0)
    assert "nothing to do" in again.stderr
    assert "15 rows of 3x16x16" in again.stdout
    assert "3 classes: a 5, b 5, c 5" in again.stdout


def test_an_error_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    done = mdt(tmp_path / "nowhere", tmp_path / "cache")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no such folder or file: {tmp_path / 'nowhere'}\n")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_the_same_command_goes_on(tmp_path: Path, signum: int) -> None:
    images = write_folder(tmp_path / "images", class_files(4, 60))
    cache = tmp_path / "cache"
    command = [images, cache, "--size", "400", "--workers", "1", "--shard-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mdt_cli", "encode-latents", *map(str, command)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(cache.glob("shard-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # As a terminal does it: every process of the group is told.
    os.killpg(process.pid, signum)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert "Traceback" not in talk
    assert "run the same command again" in talk
    assert not (cache / "manifest.json").exists()
    done = mdt(*command)
    assert done.returncode == 0
    assert "resuming" in done.stderr
    assert "240 rows" in done.stdout
