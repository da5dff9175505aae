"""Programs: the same answers at any batch size, with what they mean beside them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdt_cli.errors import MdtError
from mdt_cli.services.events import ExportDone
from mdt_cli.services.export import program as export_program
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.model import load_trained
from tests.services.small_networks import DIGITS, EDM, MDTV2, MODERN, weights_file

UNCONDITIONAL = (DIGITS[0], (*DIGITS[1], "data.conditional=false"))


def run(source: Path, out: Path, format: str) -> ExportDone:
    *_, done = export(ExportRequest(source, out, format))
    assert isinstance(done, ExportDone)
    return done


@pytest.mark.parametrize(
    "recipe", [MDTV2, UNCONDITIONAL, MODERN], ids=["mdtv2", "no classes", "modern"]
)
def test_a_torch_program_needs_no_mdt(recipe: Any, tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", recipe)
    assert run(source, tmp_path / "model.pt2", "torch-export").parity <= 1e-6
    trained = load_trained(source, None, torch.device("cpu"))
    x, t = torch.randn(7, 3, 8, 8), torch.linspace(0, 900, 7)
    y = None if recipe is UNCONDITIONAL else torch.arange(7) % 4
    given = {name: value for name, value in zip("xty", (x, t, y), strict=True) if value is not None}
    torch.save((given, trained.network(x, t, y).final), tmp_path / "stored.pt")
    code = (
        "import json, torch; given, answer = torch.load('stored.pt'); files = {'mdt.json': ''};"
        "program = torch.export.load('model.pt2', extra_files=files).module();"
        "inputs = [given.pop(name) for name in json.loads(files['mdt.json'])['inputs']];"
        "assert not given;"
        "print(float((program(*inputs) - answer).abs().max())); print(files['mdt.json'])"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    difference, _, about = found.stdout.partition("\n")
    assert float(difference) <= 1e-5
    called = "program(x, t)" if recipe is UNCONDITIONAL else "program(x, t, y)"
    assert json.loads(about)["call"] == called


@pytest.mark.parametrize(
    "recipe", [EDM, UNCONDITIONAL, MODERN], ids=["edm", "no classes", "modern"]
)
def test_onnx(recipe: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    source = weights_file(tmp_path / "w.safetensors", recipe)
    done = run(source, tmp_path / "model", "onnx")
    assert done.parity <= 1e-5
    assert done.files == ("mdt.json", "model.onnx")
    about = json.loads((tmp_path / "model" / "mdt.json").read_text())
    expected = {EDM: "log(sigma)", MODERN: "first_time"}.get(recipe, "1000 t")
    assert expected in about["inputs"]["t"]


def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    with pytest.raises(MdtError, match=r"ends in \.pt2"):
        run(source, tmp_path / "model", "torch-export")
    with pytest.raises(MdtError, match=r"ends in \.safetensors"):
        run(source, tmp_path / "model", "safetensors")
    monkeypatch.setattr(export_program.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MdtError, match="needs onnx and onnxscript") as raised:
        run(source, tmp_path / "model", "onnx")
    assert raised.value.hint == "pip install 'mdt-cli[onnx]'"
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
