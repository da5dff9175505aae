import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdt_cli.cli.app import run
from tests.pictures import png, write_folder


def mdt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdt_cli", "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_json_is_the_report_and_nothing_else(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    b = write_folder(tmp_path / "b", {f"{i}.png": png(9 + i, 8, 8) for i in range(4)})
    done = mdt(a, b, "--extractor", "efficientnet-lite0", "--metrics", "kid,fid", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["metrics"]) == ["fd_efficientnet_lite0", "kid_efficientnet_lite0"]
    assert report == json.loads((a / "report.json").read_text())
    assert f"report: {a / 'report.json'}" in done.stderr
    table = mdt(a, b, "--extractor", "efficientnet-lite0", "--metrics", "kid")
    assert "kid_efficientnet_lite0" in table.stdout
    assert "not comparable with published tables" in table.stdout


def test_faults_end_with_a_sentence_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    a = write_folder(tmp_path / "a", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    short = tmp_path / "short.pth"
    short.write_bytes(b"PK" + bytes(100))
    for arguments, sentence in (
        (("--metrics", "fid,kidd"), "error: --metrics: no kidd; did you mean kid?"),
        (("--metrics", ","), "error: --metrics is empty"),
        (("--extractor", "inceptoin"), "no inceptoin; did you mean inception?"),
        (("--weights", tmp_path / "none.pt"), "error: no such file"),
        (("--weights", short), "short.pth is truncated or another file: its SHA-256 is"),
        (("--extractor", short), "short.pth is neither TorchScript (.pt) nor an exported"),
        (("--extractor", "dinov2"), "error: the weights of dinov2 were not found"),
        (
            ("--metrics", "sfid", "--extractor", "efficientnet-lite0"),
            "error: sfid is defined only for inception, but the extractor is efficientnet-lite0",
        ),
    ):
        done = mdt(a, a, *arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_bad_sets_end_with_a_sentence_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    a = write_folder(tmp_path / "a", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    mixed = write_folder(tmp_path / "mixed", {"a.png": png(0, 8, 8), "b.png": png(0, 9, 8)})
    small = write_folder(tmp_path / "small", {f"{i}.png": png(i, 4, 4) for i in range(4)})
    one = write_folder(tmp_path / "one", {"a.png": png(0, 8, 8)})
    whole = {f"{i}.png": png(i, 8, 8) for i in range(3)}
    broken = write_folder(tmp_path / "broken", {**whole, "b.png": png(9, 8, 8)[:60]})
    np.savez(tmp_path / "odd.npz", mean=np.zeros(4))
    statistics = tmp_path / "statistics.npz"
    np.savez(statistics, mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "nan.npz", mu=np.full(1280, np.nan), sigma=np.eye(1280))
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a whole file")
    (tmp_path / "img.pkl").write_bytes(b"")
    for words, sentence in (
        ((a, mixed), "holds images of different sizes: 1 of 8x8 (a.png), 1 of 9x8 (b.png)"),
        ((a, small), "pass --size 4: it crops every image as `mdt encode-latents` does"),
        ((a, small, statistics, "--resize", "clean"), "but " + str(a) + " is of 8x8"),
        ((a, a, "--size", "0"), "--size 0 is too small"),
        ((one, a), "one holds 1 image; no metric is defined below 2"),
        ((a, broken), "b.png cannot be read"),
        ((a, tmp_path / "odd.npz"), "has no arr_0 (it holds mean [4])"),
        ((a, tmp_path / "nan.npz"), "NaN or infinite statistics"),
        ((a, tmp_path / "img.pkl"), "is a pickle"),
        ((a, a, "--weights", tmp_path / "cut.pt"), "is truncated or another file"),
        ((a, a, "--extractor", tmp_path / "cut.pt"), "cut.pt"),
        ((a,), "was given 1 path, and needs SAMPLES... REFERENCE"),
        ((a, a, a, "--reconstruction"), "and needs IMAGES CODEC"),
        ((a, "pixels", "--reconstruction", "--metrics", "kid"), "--metrics does not go with"),
        ((a, "pixels", "--reconstruction", "--memory", "9"), "--memory does not go with"),
        (
            (a, "pixels", "--reconstruction", "--save-reference", tmp_path / "r.npz"),
            "--save-reference does not go with",
        ),
        ((a, "pixels", "--reconstruction", "--out", tmp_path / "r.html"), "name of the page"),
        ((a, tmp_path / "nothing"), "no such folder or file"),
    ):
        assert run(["evaluate", *map(str, words)]) == 1, words
        told = capsys.readouterr()
        assert sentence in told.err, (words, told.err)
        assert told.err.splitlines()[-2].startswith("error: ") or "\nerror: " in "\n" + told.err
        assert told.out == ""
        assert not (a / "report.json").exists()


def test_several_sets_in_one_table(tmp_path: Path) -> None:
    folders = [
        write_folder(tmp_path / name, {f"{i}.png": png(k + i, 8, 8) for i in range(4)})
        for name, k in (("a", 0), ("b", 9), ("real", 20))
    ]
    done = mdt(*folders, "--metrics", "kid", "--out", tmp_path / "all.json")
    assert done.returncode == 0, done.stderr
    assert "* best, = a tie" in done.stdout
    assert " *" in done.stdout
    assert str(folders[1]) in done.stdout
    assert (tmp_path / "all.html").is_file()
