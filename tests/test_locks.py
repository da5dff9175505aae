"""One writer at a time: with real processes and real file descriptors."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.files import LOCK, is_bystander
from mdt_cli.locks import writing_file, writing_folder

HOLD = """
import sys, time
from pathlib import Path
from mdt_cli.locks import writing_folder
with writing_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
ROOT = str(Path(__file__).resolve().parents[1])


@contextmanager
def holder(target):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def entered(lock):
    with lock as problem:
        return problem


def test_the_second_is_told_who_holds_it_and_a_kill_frees_it(tmp_path):
    target = tmp_path / "run"
    with holder(target) as process:
        with pytest.raises(MdtError) as refused:
            entered(writing_folder(target))
        host = os.uname().nodename
        assert f"process {process.pid} on {host}, since 20" in refused.value.message
        assert str(target) in refused.value.message
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Its file is still there, and is no lock.
        assert json.loads((target / LOCK).read_text())["pid"] == process.pid
        assert entered(writing_folder(target)) is None
    assert not target.exists() or not list(target.iterdir())


def test_two_locks_of_one_process_exclude_each_other_and_others_do_not(tmp_path):
    with writing_file(tmp_path / "model"):
        with pytest.raises(MdtError, match=f"model is being written .* process {os.getpid()} on"):
            entered(writing_file(tmp_path / "model"))
        assert entered(writing_file(tmp_path / "model2")) is None
        assert entered(writing_folder(tmp_path / "model3")) is None
    assert list(tmp_path.iterdir()) == []
    assert entered(writing_file(tmp_path / "model")) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(number, tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    problem = entered(writing_folder(tmp_path / "run"))
    assert f"{tmp_path / 'run'} cannot be locked (its file system has no locks" in problem
    assert "start only one" in problem
    assert list(tmp_path.iterdir()) == []


def test_a_holder_without_a_name_is_refused_as_well(tmp_path):
    with writing_folder(tmp_path / "run"):
        for text in ("", "null", "[]", '{"pid": 1}', "x" * 10000):
            (tmp_path / "run" / LOCK).write_text(text)
            with pytest.raises(MdtError, match="does not name its process"):
                entered(writing_folder(tmp_path / "run"))


def test_what_killed_commands_left_is_swept_even_where_its_number_lives_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    # Process 1 always runs: with the lock, what bears its number is nobody's all the same.
    (folder / ".tmp-1-config.toml").write_text("half")
    (folder / ".tmp-1-step").mkdir()
    (folder / ".tmp-1-step" / "weights").write_text("half")
    (folder / "kept").write_text("")
    assert entered(writing_folder(folder)) is None
    assert [path.name for path in folder.iterdir()] == ["kept"]
    for name in (".tmp-1-model", ".tmp-1-other-model2", ".tmp-old-model"):
        (tmp_path / name).mkdir()
    assert entered(writing_file(tmp_path / "model")) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-1-other-model2", "run"]


def test_without_locks_those_of_live_processes_stay(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for number in (1, 2**30):
        (tmp_path / f".tmp-{number}-model").mkdir()
    assert entered(writing_file(tmp_path / "model")) is not None
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-1-model"]


def test_a_file_in_the_way_is_left_to_whoever_writes(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert entered(writing_folder(tmp_path / "file")) is None
    assert entered(writing_file(tmp_path / "file" / "report.json")) is None
    assert (tmp_path / "file").read_text() == "mine"


def test_what_systems_put_into_folders_is_known():
    theirs = (".DS_Store", "Thumbs.db", "desktop.ini", "._000001.png", ".nfs000012", "Icon\r")
    own = (LOCK, ".tmp-12-config.toml", f".report.json{LOCK}")
    assert all(map(is_bystander, (*theirs, *own)))
    assert not any(map(is_bystander, ("config.toml", "0.png", ".hidden", "notes.txt", "Icon")))
