"""The command lines of export and inspect: what they print, and how they fail."""

import json
import sys
from pathlib import Path

import pytest

from mdt_cli.cli import app
from tests.services.small_networks import DIGITS, weights_file


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_export_prints_its_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    assert app.run(["export", str(source), str(tmp_path / "model"), "--license", "mit"]) == 0
    assert "parity with the trained network: maximum difference 0" in capsys.readouterr().out
    out = str(tmp_path / "again.safetensors")
    assert app.run(["export", str(source), out, "--format", "safetensors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["parity"], told["step"]) == ("safetensors", 0.0, 7)
    assert app.run(["export", str(source), out]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_unwritable_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    (tmp_path / "file").touch()
    assert app.run(["export", str(source), str(tmp_path / "file" / "model")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_inspect_prints_facts_json_and_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    assert app.run(["inspect", str(source)]) == 0
    shown = capsys.readouterr().out
    assert "w.safetensors: weights" in shown
    assert "data.class_names" in shown
    assert app.run(["inspect", str(source), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["step"]) == ("weights", 7)
    assert app.run(["inspect", str(source), "--as-config"]) == 0
    assert "hidden_size = 32" in capsys.readouterr().out
    (tmp_path / "samples.json").write_text("{}")
    assert app.run(["inspect", str(tmp_path / "samples.json"), "--as-config"]) == 1
    assert "holds no configuration" in capsys.readouterr().err
    assert app.run(["inspect", str(tmp_path / "none")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
