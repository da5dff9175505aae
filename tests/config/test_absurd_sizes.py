"""Numbers that are slips are refused before anything is built, with the bound."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from mdt_cli.cli.app import run as mdt
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1"


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("model.depth=100000000000000000000", "must be at most 1024"),
        ("model.depth=1e20", "model.depth: "),
        ("model.hidden_size=1000000", "must be at most 65536"),
        ("model.num_heads=10000000000", "must be at most 65536"),
        ("model.patch_size=99999999", "must be at most 65536"),
        ("model.mlp_ratio=1e18", "must be at most 256"),
        ("model.mlp_ratio=inf", "must be at most 256"),
        ("model.class_tokens=99999999999", "must be at most 65536"),
        ("model.narrow_decoder.depth=1000000", "must be at most 1024"),
        ("model.narrow_decoder.hidden_size=4000000", "must be at most 65536"),
        ("training.steps=10000000000000", "must be at most 1e\\+12"),
        ("training.batch_size=100000000000000000000", "training.batch_size: "),
        ("sampling.steps=1000000000", "must be at most 100,?000"),
        ("preview.steps=1000000000", "must be at most 100,?000"),
        ("evaluation.steps=1000000000", "must be at most 100,?000"),
    ],
)
def test_a_number_beyond_its_bound(assignment: str, reason: str) -> None:
    with pytest.raises(MdtError, match=reason):
        load_config([], [assignment])


def test_depth_and_width_together() -> None:
    with pytest.raises(MdtError, match="parameters; at most 2e\\+11 are built"):
        load_config([], ["model.depth=1000", "model.hidden_size=65536", "model.num_heads=64"])
    assert load_config([], ["model.depth=80", "model.hidden_size=8192", "model.num_heads=64"])


def test_weights_that_claim_such_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with safe_open(OLD / "imported/weights.safetensors", "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    config = json.loads(metadata["mdt.config"])
    config["model"]["depth"] = 10**15
    save_file(tensors, tmp_path / "w.safetensors", {**metadata, "mdt.config": json.dumps(config)})
    words = [str(tmp_path / "w.safetensors"), str(tmp_path / "out"), "--seeds", "0"]
    assert mdt(["sample", *words]) == 1
    data = json.loads(metadata["mdt.data"]) | {"latent_shape": [3, 10**6, 10**6]}
    save_file(tensors, tmp_path / "w.safetensors", {**metadata, "mdt.data": json.dumps(data)})
    assert mdt(["sample", *words]) == 1
    assert "latent_shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--steps", "1000000000"], ["--num", "1000000000000000000"], ["--seeds", "0-999999999999999"]],
    ids=" ".join,
)
def test_options_of_sample(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(OLD / "imported/weights.safetensors")
    assert mdt(["sample", weights, str(tmp_path / "out"), *words]) in (1, 2)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in capsys.readouterr().err
