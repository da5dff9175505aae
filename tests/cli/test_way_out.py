"""What a message advises works: each wrong command is run, then what its message says to write."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.cli.app import run
from tests.reference import official_layouts as official

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/v0.1"
DRY = "pretrain latents run -p dit -p size/tiny -n"
FEW = "--set training.steps=6 --set training.batch_size=4 --set preview.every=0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cache, a run and an official checkpoint, in which commands are typed."""
    for name in ("latents", "cache", "runs/dit"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def instead(words: list[str], message: str) -> list[str]:
    """The command that a message advises, or the wrong one with what it advises put in."""
    if written := re.search(r"^  write (--set .+)$", message, re.MULTILINE):
        faulty = re.findall(r"\(set by --set (.+)\)$", message, re.MULTILINE)
        kept = list(words)
        for value in faulty:
            place = kept.index(value)
            del kept[place - 1 : place + 1]
        return [*kept, *shlex.split(written[1])]
    if command := re.search(r"mdt ((?:import|sample|encode-latents|presets)\b[^;`\n]*)", message):
        return shlex.split(command[1])
    if (option := re.search(r"(--[a-z-]+) (\S+)$", message, re.MULTILINE)) and option[1] in words:
        place = words.index(option[1])
        return [*words[: place + 1], *shlex.split(option[2]), *words[place + 2 :]]
    meant = re.search(r"did you mean (\S+)\?", message)
    assert meant is not None, f"no advice in: {message}"
    wrong = re.search(r"(?:preset: |preset file: |no |weights |--[a-z]+ )(\S+?)[:;\n]", message)
    assert wrong is not None, message
    assert wrong[1] in words, message
    return [meant[1] if word == wrong[1] else word for word in words]


@pytest.mark.parametrize(
    "wrong",
    [
        f"{DRY} --set masking.ratio=0.75",
        f"{DRY} --set steps=100",
        f"{DRY} --set trainig.steps=100",
        f"{DRY} --set model.hiden_size=128 --set model.num_heads=4",
        f"{DRY} --set lr=1e-3",
        f"{DRY} --set learning_rate=1e-3",
        f"{DRY} --set cfg_scale=4",
        f"{DRY} --set sampling.guidance=4",
        f"{DRY} --set ema=0.99",
        f"{DRY} --set ema.decays=0.99",
        f"{DRY} --set ema_decay=0.99",
        f"{DRY} --set optimizer=adan",
        f"{DRY} --set optimizer.kind=Adan",
        f"{DRY} --set masking.selector=blocks",
        f"{DRY} --set masking.ratio.low=0.1",
        f"{DRY} --set sampling.solver=DDIM",
        f"{DRY} --set training.precision=fp32",
        f"{DRY} --set training.batchsize=8",
        f"{DRY} --set Training.Steps=8",
        f"{DRY} --set training=8",
        f"{DRY} --set mask_ratio=0.5",
        f"{DRY} --set lr_schedule=cosine",
        "pretrain latents run -p digits -n --set sampling.guidance.scale=4",
        "finetune latents run --from runs/dit -n --set objective.min_snr_gama=4",
        "pretrain latents run -p DiT -n",
        "pretrain latents run -p dit -p tiny -n",
        "pretrain latents run -p dit.toml -n",
        f"pretrain cache run -p dit -p size/tiny {FEW} --device gpu",
        "sample runs/dit out --seeds 0-1 --steps 2 --device CUDA",
        "sample runs/dit out --seeds 0-1 --steps 2 --solver DDIM",
        "sample runs/dit out --seeds 0-1 --steps 2 --precision fp32",
        "sample runs/dit out --seeds 0-1 --steps 2 --classes A",
        "sample runs/dit out --seeds 0-1 --steps 2 --ema 0.9999",
        "export runs/dit out.safetensors --format Safetensors",
        "presets MDTv2",
    ],
)
def test_the_advice_works(wrong: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(wrong)
    assert run(words) in (1, 2)
    message = capsys.readouterr().err
    assert "nput should" not in message
    again = instead(words, message)
    assert again != words, message
    assert run(again) == 0, f"{message}\n{shlex.join(again)}\n{capsys.readouterr().err}"


def test_a_set_option_may_stand_before_the_kind_it_needs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = "--set masking.ratio.low=0.1 --set masking.ratio.kind=uniform"
    assert run(shlex.split(f"{DRY} --json {sets}")) == 0
    assert '"low": 0.1' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "name", "old"),
    [
        ("sample {} out", "model.pt", True),
        ("finetune latents run --from {}", "model.ckpt", False),
        ("export {} out", "model.pth", False),
        ("evaluate {} latents", "pytorch_model.bin", False),
        ("evaluate cache {}", "model.pt", True),
        ("inspect {}", "model.pt", False),
        ("inspect {}", "model", True),
        ("encode-latents {} out", "model.pt", False),
    ],
)
def test_every_command_names_import_for_a_torch_file(
    command: str, name: str, old: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.zeros(2)}, here / name, _use_new_zipfile_serialization=not old)
    assert run(command.format(name).split()) == 1
    message = capsys.readouterr().err
    assert f"{name} is a file of torch.save" in message
    assert f"mdt import {name} " in message


def test_a_torch_file_is_imported_as_advised(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"ema": official.filled(official.mdt(width=384, depth=3, decoder=1))}, "my model.pt")
    assert run(["sample", "my model.pt", "out"]) == 1
    again = instead([], capsys.readouterr().err)
    assert again == ["import", "my model.pt", "my model-imported"]
    assert run(again) == 0
    assert run(["inspect", again[2]]) == 0


def test_official_safetensors_are_imported_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(official.filled(official.dit(width=384, depth=1)), here / "dit.safetensors")
    assert run(["sample", "dit.safetensors", "out"]) == 1
    again = instead([], capsys.readouterr().err)
    assert run(again) == 0


def test_a_file_of_no_known_layout_names_those_that_are(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"layer.weight": torch.zeros(2, 2)}, here / "other.pt")
    assert run(["import", "other.pt", "out"]) == 1
    message = capsys.readouterr().err
    assert "none of the layouts" in message
    assert "MaskDiT" in message
