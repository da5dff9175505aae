"""`mdt import` and what follows it, as a shell sees them."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.cli.app import run
from tests.autoencoders import save_autoencoder
from tests.reference import official_layouts as official
from tests.services.training_kit import make_images
from tests.test_untrusted import write_malicious

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("class0", "class1", "class2")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights; four channels, half of the side: latents of 8 are images of 16."""
    return save_autoencoder(tmp_path_factory.mktemp("autoencoder") / "vae")


def pictures(folder: Path) -> list[np.ndarray]:
    found = sorted(folder.glob("*.png"))
    return [np.asarray(Image.open(path)) for path in found]


def test_import_sample_finetune_export_inspect(
    tmp_path: Path, autoencoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Latents of an autoencoder, MDT v2 in a training container, the whole chain behind it."""
    state = official.filled(official.mdt(depth=6, decoder=2))
    held = {"model": {f"module.{k}": v + 1 for k, v in state.items()}, "ema": state}
    torch.save(held, tmp_path / "0300000.pt")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    words = ["import", str(tmp_path / "0300000.pt"), str(tmp_path / "ours"), "--family", "mdtv2"]
    assert run([*words, "--codec", autoencoder, "--classes", str(names)]) == 0
    streams = capsys.readouterr()
    assert "MDT v2" in streams.out
    assert "EMA 0.9999, step 300,000" in streams.out
    assert "bit for bit" in streams.out
    assert "guidance power_cosine 3.8, uint8 truncate" in streams.out
    assert "the checkpoint also has online (--weights online)" in streams.err

    ours, samples = str(tmp_path / "ours"), tmp_path / "samples"
    assert run(["sample", ours, str(samples), "--seeds", "0-2", "--classes", "class2,0"]) == 0
    drawn = pictures(samples)
    assert [image.shape for image in drawn] == [(16, 16, 3)] * 3
    assert all(image.std() > 0 for image in drawn)
    manifest = json.loads((samples / "samples.json").read_text())
    published = {"solver": "ddpm", "steps": 250, "clip": False, "spacing": "respaced"}
    assert manifest["sampler"] == published
    assert manifest["guidance"]["kind"] == "power_cosine"
    assert (manifest["uint8"], manifest["step"]) == ("truncate", 300_000)
    capsys.readouterr()

    images = make_images(tmp_path / "images", classes=3, per_class=8, size=16)
    cache, tuned = str(tmp_path / "cache"), tmp_path / "run"
    shutil.copytree(autoencoder, tmp_path / "moved")
    codec = ["--codec", str(tmp_path / "moved"), "--size", "16", "--workers", "1"]
    assert run(["encode-latents", str(images), cache, *codec]) == 0
    few = ["training.steps=2", "training.batch_size=4", "data.flip=false", "preview.every=0"]
    changes = [word for text in (*few, "validation.every=0") for word in ("--set", text)]
    assert run(["finetune", cache, str(tuned), "--from", ours, *changes]) == 0
    assert (tuned / "checkpoints" / "step-0000002").is_dir()

    again = str(tmp_path / "again.safetensors")
    assert run(["export", ours, again, "--format", "safetensors"]) == 0
    capsys.readouterr()
    assert run(["inspect", ours, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["family"]) == ("imported weights", "MDT v2")
    assert told["round_trip"]["bit_for_bit"]
    assert "damage" not in told
    assert run(["inspect", ours, "--as-config"]) == 0
    assert "decoder_depth = 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "shapes", "extra"),
    [
        ("dit", official.dit(channels=3), ["--set", "model.num_heads=2"]),
        ("mdt", official.mdt(channels=3), ["--decoder-depth", "1"]),
        ("mdtv2", official.mdt(depth=6, decoder=2, channels=3), []),
        (
            "maskdit",
            official.maskdit(channels=3),
            ["--set", "model.num_heads=2", "--set", "model.narrow_decoder.num_heads=2"],
        ),
        ("uvit", official.uvit(channels=3), ["--set", "model.num_heads=2"]),
        ("maskdm", official.maskdm(), ["--set", "model.num_heads=2"]),
    ],
    ids=["dit", "mdt", "mdtv2", "maskdit", "uvit", "maskdm"],
)
def test_every_family_samples_and_exports_without_further_options(
    tmp_path: Path, family: str, shapes: dict, extra: list[str]
) -> None:
    state = official.filled(shapes, fixed_positions=family not in ("uvit", "maskdm"))
    torch.save(state, tmp_path / "a.pt")
    out, samples = str(tmp_path / "ours"), tmp_path / "samples"
    assert run(["import", str(tmp_path / "a.pt"), out, "--family", family, *extra]) == 0
    assert run(["sample", out, str(samples), "--seeds", "0-1"]) == 0
    first, second = pictures(samples)
    assert first.std() > 0
    assert not np.array_equal(first, second)
    model = str(tmp_path / "model.safetensors")
    assert run(["export", out, model, "--format", "safetensors"]) == 0


def test_pixels_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official.filled(official.maskdm(), fixed_positions=False)
    torch.save({"ema": {f"ema_model.model.{k}": v for k, v in state.items()}}, tmp_path / "a.pt")
    out = tmp_path / "ours.safetensors"
    words = ["import", str(tmp_path / "a.pt"), str(out), "--family", "maskdm"]
    assert run([*words, "--set", "model.num_heads=2", "--set", "sampling.steps=9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report_path"] == str(tmp_path / "ours.import.json")
    assert told["data"]["codec"] == {"name": "pixels"}
    assert run(["sample", str(out), str(tmp_path / "s"), "--seeds", "0-1"]) == 0
    assert [image.shape for image in pictures(tmp_path / "s")] == [(16, 16, 3)] * 2
    assert json.loads((tmp_path / "s" / "samples.json").read_text())["sampler"]["eta"] == 1.0
    capsys.readouterr()
    assert run(["inspect", str(tmp_path / "ours.import.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "import report"


def test_finetune_on_other_classes_or_another_autoencoder(
    tmp_path: Path, autoencoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(official.filled(official.dit(classes=3)), tmp_path / "a.pt")
    heads = ["--set", "model.num_heads=2"]
    words = ["import", str(tmp_path / "a.pt"), str(tmp_path / "ours"), "--family", "dit", *heads]
    assert run([*words, "--codec", autoencoder]) == 0
    images = make_images(tmp_path / "images", classes=4, per_class=8, size=16)
    other = save_autoencoder(tmp_path / "vae", seed=1)
    for codec, cache in ((autoencoder, "four"), (other, "other")):
        encode = ["encode-latents", str(images), str(tmp_path / cache), "--codec", codec]
        assert run([*encode, "--size", "16", "--workers", "1"]) == 0
    shutil.rmtree(images / "class3")
    encode = ["encode-latents", str(images), str(tmp_path / "three"), "--codec", autoencoder]
    assert run([*encode, "--size", "16", "--workers", "1"]) == 0
    capsys.readouterr()
    few = ["training.steps=1", "training.batch_size=4", "data.flip=false", "preview.every=0"]
    changes = [word for text in (*few, "validation.every=0") for word in ("--set", text)]

    def tune(cache: str) -> int:
        start = ["finetune", str(tmp_path / cache), str(tmp_path / f"run-{cache}")]
        return run([*start, "--from", str(tmp_path / "ours"), *changes])

    # Its classes are known by number alone: three other names are the same classes, four are not.
    assert tune("three") == 0
    assert tune("four") == 1
    assert (
        "was trained on other classes than the cache holds: 3 there, 4" in capsys.readouterr().err
    )
    assert tune("other") == 1
    assert "was trained on another codec" in capsys.readouterr().err
    assert not (tmp_path / "run-other").exists()


def test_refusals_are_a_sentence_and_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_malicious(tmp_path / "evil.pt", tmp_path / "trap", "zip")
    out = tmp_path / "out"
    assert run(["import", str(tmp_path / "evil.pt"), str(out), "--family", "dit"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'evil.pt'} was not read: it refers to posix.system")
    assert "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt"]
    torch.save(official.filled(official.mdt()), tmp_path / "mdt.pt")
    assert run(["import", str(tmp_path / "mdt.pt"), str(out), "--family", "mdt"]) == 1
    assert "add --decoder-depth 2" in capsys.readouterr().err
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "ours")
    words = ["import", str(tmp_path / "mdt.pt"), place, "--family", "mdt", "--decoder-depth", "2"]
    assert run(words) == 1
    assert "cannot write" in capsys.readouterr().err
    assert run(["import", str(tmp_path / "mdt.pt"), str(out)]) == 1
    assert "add --decoder-depth 2" in capsys.readouterr().err


def test_the_lines_of_the_documentation(tmp_path: Path, autoencoder: str, monkeypatch) -> None:
    """With fewer images and steps: of an option that is given twice the last counts."""
    text = (ROOT / "docs" / "import.md").read_text("utf-8")
    block = next(b for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "mdt import" in b)
    imports, samples = (shlex.split(line)[1:] for line in block.splitlines())
    monkeypatch.chdir(tmp_path)
    torch.save(official.filled(official.mdt(depth=4)), imports[1])
    assert run([*imports, "--codec", autoencoder]) == 0
    assert run([*samples, "--steps", "3", "--seeds", "0-15"]) == 0
    (file,) = (tmp_path / samples[2]).glob("samples_16x*.npz")
    with np.load(file) as held:
        assert held["arr_0"].shape[0] == len(held["arr_1"]) == 16
