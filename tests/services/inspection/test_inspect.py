"""Every artifact is told from its own files, and damage is named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mdt_cli.artifacts.checkpoint import CheckpointState, write_checkpoint
from mdt_cli.artifacts.weights import Header, read_header, read_tensors, save_weights
from mdt_cli.config.load import load_config
from mdt_cli.config.run import RunConfig
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.inspection.inspect import inspect
from tests.services.small_networks import DIGITS, weights_file


def pictures(folder: Path) -> Path:
    for k, name in enumerate(("ant", "ant", "bee")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = np.full((10 + k, 12, 3), 40 * k, np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def run_folder(tmp_path: Path) -> Path:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    header, tensors = read_header(source), read_tensors(source)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("# pretrain\n" + to_toml(load_config(*DIGITS)))
    (folder / "log.jsonl").write_text('{"step": 4, "loss": NaN}\n{"step": 5, "lo')
    for step in (5, 9):
        write_checkpoint(
            folder / "checkpoints" / f"step-{step:07d}",
            Header(header.config, header.data, step, "online", "pretrain"),
            tensors,
            {"0.99": tensors},
            {"0/exp_avg": torch.ones(2)},
            CheckpointState(step, 64 * step, 0, None, "abc"),
        )
    return folder


def test_weights(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "w.safetensors", DIGITS)
    found = inspect(path)
    assert found.kind == "weights"
    assert (found.facts["step"], found.facts["ema"]) == (7, "0.99")
    assert found.facts["parameters"] == sum(t.numel() for t in read_tensors(path).values())
    assert found.facts["with NaN or infinity"] == []
    assert found.facts["data"]["class_names"] == ["cat", "dog", "owl"]
    assert found.config is not None
    again = tmp_path / "config.toml"
    again.write_text(found.config)
    config = RunConfig.model_validate(read_header(path).config)
    assert load_config([str(again)], []).config == config


def test_nan_and_foreign_and_short_weights(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    tensors = read_tensors(source)
    tensors["head.linear.bias"][1] = float("nan")
    save_weights(tmp_path / "nan.safetensors", tensors, read_header(source))
    broken = inspect(tmp_path / "nan.safetensors").facts["with NaN or infinity"]
    assert broken == ["head.linear.bias"]
    save_file({"a": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "other.safetensors")
    other = inspect(tmp_path / "other.safetensors")
    assert other.kind == "safetensors file, not of mdt"
    assert other.facts["dtypes"] == {"bfloat16": 1}
    short = tmp_path / "short.safetensors"
    short.write_bytes(source.read_bytes()[:-9])
    with pytest.raises(MdtError, match="not a complete safetensors file"):
        inspect(short)


def test_runs_and_checkpoints(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    newest = folder / "checkpoints" / "step-0000009"
    found = inspect(folder)
    assert (found.kind, found.facts["stage"]) == ("run", "pretrain")
    assert found.facts["newest whole checkpoint"]["step"] == 9
    assert found.facts["newest whole checkpoint"]["weights"] == ["ema-0.99", "weights"]
    assert found.facts["last log record"] == {"step": 4, "loss": None}
    assert found.config is not None
    assert "preset digits" in found.config
    inside = inspect(newest)
    assert (inside.kind, inside.facts["step"], inside.facts["damage"]) == ("checkpoint", 9, None)
    assert inside.config is not None
    with (newest / "ema-0.99.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert "missing or damaged" in inspect(newest).facts["damage"]
    found = inspect(folder)
    assert found.facts["newest whole checkpoint"]["step"] == 5
    assert "missing or damaged" in found.facts["damaged"]["step-0000009"]


def test_images_and_their_cache(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    (images / "bee" / "bad.png").write_bytes(b"\x89PNG no")
    found = inspect(images)
    assert (found.kind, found.facts["count"]) == ("images", 4)
    assert found.facts["classes"] == {"ant": 2, "bee": 2}
    assert (found.facts["width"], found.facts["height"]) == ([12, 12], [10, 12])
    assert found.facts["unreadable"] == ["bee/bad.png"]
    assert inspect(images / "ant" / "0.png").facts["size"] == [12, 10]
    cache = tmp_path / "cache"
    list(encode_latents(EncodeRequest(images=images, cache=cache, size=8, workers=0)))
    found = inspect(cache)
    assert (found.kind, found.facts["count"]) == ("latent cache", 3)
    assert found.facts["classes"] == {"ant": 2, "bee": 1}
    assert found.facts["missing or cut short"] == []
    (shard,) = cache.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert inspect(cache).facts["missing or cut short"] == [shard.name]


def test_arrays_reports_and_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), arr_1=np.zeros(2))
    found = inspect(tmp_path / "samples.npz")
    assert found.kind == "sample array"
    assert found.facts["arrays"]["arr_0"] == {"shape": [2, 4, 4, 3], "dtype": "uint8"}
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert inspect(tmp_path / "statistics.npz").kind == "reference statistics"
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(MdtError, match="not a readable npz"):
        inspect(tmp_path / "bad.npz")
    folder = tmp_path / "samples"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "000000.png")
    (folder / "samples.json").write_text(json.dumps({"format": 1, "count": 1}))
    report = {
        "metrics": {"fid": {"value": 3.5}},
        "comparability": {"verdict": "no"},
        "samples": {"path": "a"},
        "reference": {"path": "b"},
        "extractor": {"id": "inception"},
    }
    (folder / "report.json").write_text(json.dumps(report))
    found = inspect(folder)
    assert (found.kind, found.facts["png files"]) == ("sample folder", 1)
    assert found.facts["scores"] == {"fid": 3.5}
    assert inspect(folder / "report.json").kind == "report"
    assert inspect(folder / "samples.json").kind == "sample folder"


def test_exported_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    list(export(ExportRequest(source, tmp_path / "model")))
    found = inspect(tmp_path / "model")
    assert (found.kind, found.facts["pipeline"]) == ("diffusers folder", "MdtPipeline")
    assert found.facts["classes"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize("format", ["torch-export", "onnx"])
def test_programs(tmp_path: Path, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    out = tmp_path / ("model.pt2" if format == "torch-export" else "model")
    list(export(ExportRequest(source, out, format)))
    kind = "torch.export program" if format == "torch-export" else "ONNX program"
    files = [out] if format == "torch-export" else [out, out / "model.onnx", out / "mdt.json"]
    for path in files:
        found = inspect(path)
        assert (found.kind, found.facts["call"]) == (kind, "program(x, t, y)")
        assert found.facts["step"] == read_header(source).step
        assert "hidden_size = 32" in (found.config or "")
    (tmp_path / "bad.pt2").write_bytes(b"PK")
    with pytest.raises(MdtError, match="not a complete torch"):
        inspect(tmp_path / "bad.pt2")


def test_an_image_of_any_size_is_measured_by_its_header(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    Image.new("1", (20_000, 20_000)).save(images / "bee" / "huge.png")
    found = inspect(images / "bee" / "huge.png")
    assert (found.kind, found.facts["size"]) == ("image", [20_000, 20_000])
    facts = inspect(images).facts
    assert (facts["count"], facts["unreadable"]) == (4, ["bee/huge.png"])
    assert facts["height"] == [10, 12]


def test_what_is_unknown_is_said(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="no such file or folder"):
        inspect(tmp_path / "none")
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(MdtError, match="cannot recognise"):
        inspect(tmp_path / "notes.md")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MdtError, match="cannot recognise"):
        inspect(tmp_path / "other.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(MdtError, match="no JSON object"):
        inspect(tmp_path / "list.json")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(MdtError, match="is not valid TOML"):
        inspect(tmp_path / "bad.toml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MdtError, match="its images cannot be listed"):
        inspect(tmp_path / "empty")


def test_json_artifacts_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(json.dumps({"format": 1}))
    code = (
        "import sys; from pathlib import Path; "
        "from mdt_cli.services.inspection.inspect import inspect;"
        f"inspect(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
