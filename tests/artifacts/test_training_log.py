"""MIT, MLI, MLT and MAT from the files of a run, also of one that was stopped or begun anew."""

import json
from pathlib import Path

import pytest

from mdt_cli.artifacts.training_log import accuracy, learning
from mdt_cli.cli.app import run as mdt
from tests.services.training_kit import log_of, make_cache, make_images, run, small


def write_log(folder: Path, steps: range, every: int = 1, more: str = "") -> None:
    """The loss falls by 1 with every record; 8 images a step, 2 steps a second."""
    folder.mkdir(exist_ok=True)
    with (folder / "log.jsonl").open("a") as file:
        for step in steps[every - 1 :: every]:
            record = {"step": step, "images": 8 * step, "loss": 1000.0 - step}
            file.write(json.dumps({**record, "images_per_second": 16.0}) + "\n")
        file.write(more)


def test_a_log_that_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A line cut short, and steps that are there twice because the log was not rewound."""
    write_log(tmp_path / "whole", range(1, 101))
    write_log(tmp_path / "killed", range(1, 71), more='{"step": 71, "lo\n')
    write_log(tmp_path / "killed", range(51, 101))
    speed = learning(tmp_path / "whole")
    assert speed is not None
    assert learning(tmp_path / "killed") == speed
    assert (speed["MIT"], speed["MLI"], speed["MLT"]) == (0.5, 1.0, 0.5)
    assert (speed["window"], speed["resolution"], speed["iterations"]) == (20, 1, 100)
    assert "last 20 iterations; MLT" in speed["meaning"]


def test_a_sparse_log_says_how_fine_it_is(tmp_path: Path) -> None:
    write_log(tmp_path / "run", range(1, 501), every=50)
    speed = learning(tmp_path / "run")
    assert speed is not None
    assert (speed["MLI"], speed["window"], speed["resolution"]) == (50.0, 50, 50)
    assert "a record for every 50 iterations" in speed["meaning"]


def test_a_run_that_has_logged_nothing(tmp_path: Path) -> None:
    assert learning(tmp_path) is None
    assert accuracy(tmp_path) == {}
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert learning(tmp_path) is None


def test_hours_per_point(tmp_path: Path) -> None:
    write_log(tmp_path, range(1, 7201))
    looks = [
        {"step": 0, "top1/online": 1.0, "top5/online": 2.0, "top1/0.9": 10.0, "top5/0.9": 50.0},
        {"step": 7200, "top1/online": 3.0, "top5/online": 4.0, "top1/0.9": 60.0, "top5/0.9": 40.0},
        {"step": 7200, "evaluation/fid": 3.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    # 7200 steps of half a second are an hour.
    assert accuracy(tmp_path) == {
        "hours": pytest.approx(1.0, rel=1e-12),
        "top1": 60.0,
        "top1_gained": 50.0,
        "MAT@1": pytest.approx(1 / 50, rel=1e-12),
        "top5": 40.0,
        "top5_gained": -10.0,
        "MAT@5": None,
    }


def test_inspect_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = make_cache(tmp_path / "cache", make_images(tmp_path / "images", per_class=5))
    run(cache, tmp_path / "run", small(30))
    assert mdt(["inspect", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    speed = facts["learning speed"]
    assert speed == learning(tmp_path / "run")
    assert "held-out accuracy" not in facts
    seconds = sum(8 / record["images_per_second"] for record in log_of(tmp_path / "run"))
    assert speed["MIT"] == pytest.approx(seconds / 30, rel=1e-9)
    assert speed["iterations"] == 30
    assert mdt(["inspect", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("MIT", "MLI", "MLT", "window"))
