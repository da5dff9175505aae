import json
import subprocess
import sys
from pathlib import Path

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


def test_faults_end_with_a_sentence_and_exit_1(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    for arguments, sentence in (
        (("--metrics", "fid,kidd"), "error: --metrics: no kidd; did you mean kid?"),
        (("--metrics", ","), "error: --metrics is empty"),
        (("--extractor", "inceptoin"), "no inceptoin; did you mean inception?"),
        (("--weights", tmp_path / "none.pt"), "error: no such file"),
    ):
        done = mdt(a, a, *arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
