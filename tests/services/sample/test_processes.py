"""The real command in real processes: killed, signalled, launched twice."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.sampled import contents

ROOT = Path(__file__).resolve().parents[3]


def command(request, *more, seeds="0-99"):
    return [
        *(sys.executable, "-m", "mdt_cli", "sample"),
        *(str(request.weights), str(request.out), "--seeds", seeds),
        *("--batch-size", "4", "--device", "cpu", *more),
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(request, *more):
    return subprocess.Popen(
        command(request, *more), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )


def finish(words):
    """Run to the end; what it told must not be an error."""
    found = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def wait_for_pictures(process, folder, count):
    deadline = time.monotonic() + 60
    while len(list(folder.glob("0*.png"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_at_random_and_run_again_is_the_same_folder(request_, tmp_path):
    slow = ("--steps", "150")
    whole = replace(request_, out=tmp_path / "whole")
    finish(command(whole, *slow))
    for count in (1, 37, 71):
        process = start(request_, *slow)
        wait_for_pictures(process, request_.out, count)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (request_.out / "samples.json").exists()
    finish(command(request_, *slow))
    assert contents(request_.out) == contents(whole.out)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_batch_finish(request_, signum, code):
    process = start(request_, "--steps", "150")
    wait_for_pictures(process, request_.out, 5)
    process.send_signal(signum)
    _, told = process.communicate()
    assert process.returncode == code, told
    assert "run the same command again to resume" in told
    names = contents(request_.out)
    assert len(names) % 4 == 0
    assert not any(name.startswith(".") for name in names)


def test_two_processes_draw_what_one_draws(request_, tmp_path):
    alone = replace(request_, out=tmp_path / "alone")
    finish(command(alone, "--steps", "10"))
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "mdt_cli")
    finish([sys.executable, "-m", *launcher, *command(request_, "--steps", "10")[3:]])
    assert contents(request_.out) == contents(alone.out)


def test_the_command_prints_one_json_object(request_):
    words = command(request_, "--grid", "--json", "--classes", "all", seeds="0-7")
    said = json.loads(finish(words))
    assert said["path"] == str(request_.out)
    assert (said["count"], said["drawn"], said["uint8"]) == (8, 8, "round")
    assert said["sampler"] == {"solver": "euler", "steps": 4, "clip": False}
    again = subprocess.run(words[:-3], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "other settings" in again.stderr
    assert "Traceback" not in again.stderr
