"""`mdt presets NAME`: the mask ratio in numbers, as text and as a picture."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.cli.app import run

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


def test_numbers_of_a_schedule(growing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", growing]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert "Mask ratio: cosine_growth, on average 0.551" in text
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
    assert "0.3000 to 0.5000, random" in text
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
        (["presets", "--plot", "x.png"], "--plot shows the mask ratio of one preset"),
        (["presets", "dit", "--plot", "x.png"], "preset dit has no mask ratio to plot"),
        (["presets", "mdtv2", "--plot", "x.gif"], "--plot x.gif: unknown image format"),
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


def test_a_plot_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(["presets", "mdtv2", "--plot", str(tmp_path / "x.png")]) == 1
    assert 'pip install "mdt-cli[plot]"' in capsys.readouterr().err
