"""`mdt presets NAME`: the mask ratio in numbers, as text and as a picture."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.cli.app import run
from mdt_cli.cli.chart import chart

ROOT = Path(__file__).resolve().parents[2]
GROWING = """# A test. Command: none. Verified: here. Expected: nothing.
[masking]
views = [{ tokens = "kept" }]
ratio = { kind = "cosine_growth" }
[training]
steps = 9001
"""


@pytest.fixture
def growing(tmp_path: Path) -> str:
    path = tmp_path / "growing.toml"
    path.write_text(GROWING)
    return str(path)


def test_a_chart_is_bars_up_to_the_low_and_shade_up_to_the_high() -> None:
    assert chart([0.0, 0.4, 0.8], [0.0, 0.8, 0.8], fancy=False) == [
        "  0.8 | .#",
        "      | .#",
        "      | .#",
        "      | .#",
        "      | ##",
        "      | ##",
        "      | ##",
        "  0.0 | ##",
        "      +---",
    ]
    # A third of a row is none in ASCII, two thirds are one.
    assert chart([0.004, 0.008, 0.1], [0.004, 0.008, 0.1], fancy=False)[-2] == "  0.0 | ##"
    # 0.05 of 0.1 is half a scale; 0.0125 is one row, 0.00625 half of one.
    fancy = chart([0.05, 0.00625, 0.0], [0.05, 0.00625, 0.1], fancy=True)
    assert fancy[0] == "  0.1 |  ░"
    assert fancy[-2] == "  0.0 |█▄░"
    assert len(chart([1.0], [1.0], fancy=False)) == 9


def test_numbers_of_a_schedule(growing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", growing]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert "Mask ratio: cosine_growth, on average 0.551" in text
    assert "0                                                      9,000" in text
    told = dict(re.findall(r"step +([\d,]+) +([\d.]+)", text))
    assert told["0"] == "0.1500"
    # Step 2,250 is at 0.375 of the rising part, S = 6,000.
    assert told["2,250"] == "0.3395"
    assert told["9,000"] == "0.7500"
    assert len(told) == 7


def test_a_drawn_ratio_tells_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "mdtv2"]) == 0
    text = capsys.readouterr().out
    assert "Mask ratio: uniform, on average 0.400" in text
    assert "0.3000 to 0.5000, drawn" in text
    assert "|....." in text
    assert run(["presets", "dit"]) == 0
    assert "Mask ratio" not in capsys.readouterr().out


def test_an_overlay_shows_the_ratio_it_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "overlay.toml"
    path.write_text(
        '# A test.\n[masking]\nratio = { kind = "cosine_decay" }\n[optimizer]\nlr = 1e-3'
    )
    assert run(["presets", str(path)]) == 0
    assert "Mask ratio: cosine_decay" in capsys.readouterr().out


def test_json_has_the_curve(growing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", growing, "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["mask_ratio"]
    assert curve["kind"] == "cosine_growth"
    assert curve["steps"][0] == 0
    assert curve["steps"][-1] == 9000
    assert len(curve["steps"]) == len(curve["low"]) == len(curve["high"]) == 60
    assert curve["low"] == sorted(curve["low"])
    assert run(["presets", "dit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mask_ratio"] is None


def test_a_picture(growing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "ratio.png"
    assert run(["presets", growing, "--plot", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plot"] == str(out)
    with Image.open(out) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] > 400
    # The ink of the curve rises from left to right.
    rows, columns = np.nonzero(pixels[..., 2] > pixels[..., 0] + 60)
    left = columns < pixels.shape[1] / 2
    assert rows[~left].max() < rows[left].max()
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["presets", "--plot", "x.png"], "--plot draws the mask ratio of one preset"),
        (["presets", "dit", "--plot", "x.png"], "preset dit has no mask ratio to draw"),
        (["presets", "mdtv2", "--plot", "x.gif"], "--plot x.gif: no such kind of picture"),
        (["presets", "mdtv2", "--plot", "/dev/null/x.png"], "cannot write /dev/null/x.png"),
    ],
)
def test_pictures_that_cannot_be(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 1
    streams = capsys.readouterr()
    assert said in streams.err
    assert streams.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_blocks() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    command = [sys.executable, "-m", "mdt_cli", "presets", "mdtv2"]
    process = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:
        pass  # Linux ends a terminal whose other side is closed with an error.
    assert process.wait(timeout=60) == 0
    assert "░░░".encode() in text
    assert "███".encode() in text
