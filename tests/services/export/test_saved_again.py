"""What a user of an exported folder saves with diffusers loads as the folder did."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import save_file

from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.services.export.diffusers_folder import load_as_stranger
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.model import fixed_inputs, load_trained
from tests.services.small_networks import DIT, weights_file

CPU = torch.device("cpu")

STRANGER = """
import sys

class NoMdt:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mdt_cli":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoMdt())

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

stored = load_file("stored.safetensors")
for folder in ("again", "thrice"):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        answer = pipe.transformer(stored["x"], stored["t"], stored["y"]).sample
    print(type(pipe).__name__, float((answer - stored["answer"]).abs().max()))
    pipe.save_pretrained("thrice")
"""


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(
    ("format", "pipeline"), [("diffusers", "MdtPipeline"), ("diffusers-dit", "DiTPipeline")]
)
def test_a_folder_saved_again_in_half_precision_loads_without_mdt(
    tmp_path: Path, format: str, pipeline: str
) -> None:
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    codec = open_codec(str(tmp_path / "vae"), CPU).facts()
    source = weights_file(tmp_path / "w.safetensors", DIT, (4, 8, 8), codec=codec)
    list(export(ExportRequest(source, tmp_path / "model", format=format)))
    pipe = load_as_stranger(tmp_path / "model")
    for parameter in pipe.transformer.parameters():
        parameter.data = parameter.half().float()
    inputs = fixed_inputs(load_trained(source, None, CPU))
    assert inputs.y is not None
    with torch.no_grad():
        answer = pipe.transformer(inputs.x, inputs.t, inputs.y).sample
    save_file({**vars(inputs), "answer": answer}, tmp_path / "stored.safetensors")
    pipe.to(torch.float16).save_pretrained(tmp_path / "again")
    shutil.rmtree(tmp_path / "model")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    code = tmp_path / "again" / "transformer" / f"{index['transformer'][0]}.py"
    assert code.is_file()
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_HOME": str(tmp_path / "home"),
    }
    found = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert [name for name, _ in lines] == [pipeline, pipeline]
    # The same half-precision weights in the same float32 arithmetic.
    assert all(float(difference) <= 1e-5 for _, difference in lines)
    if format == "diffusers-dit":
        # As the card says: without its code the folder is made of diffusers' own classes.
        parts = {
            "transformer": DiTTransformer2DModel,
            "vae": AutoencoderKL,
            "scheduler": DDIMScheduler,
        }
        plain = DiTPipeline(
            **{k: v.from_pretrained(tmp_path / "again", subfolder=k) for k, v in parts.items()}
        )
        assert type(plain.transformer) is DiTTransformer2DModel
        (picture,) = plain([1], num_inference_steps=1, output_type="np").images
        assert bool(torch.from_numpy(picture).isfinite().all())


def test_a_network_of_the_exported_class_is_made_from_its_configuration(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIT)
    list(export(ExportRequest(source, tmp_path / "model")))
    exported = load_as_stranger(tmp_path / "model").transformer
    held = json.loads((tmp_path / "model" / "transformer" / "config.json").read_text())
    made = type(exported).from_config(exported.config)
    assert {name: p.shape for name, p in made.named_parameters()} == {
        name: p.shape for name, p in exported.named_parameters()
    }
    assert {key: made.config[key] for key in held} == held
    smaller, unused = type(exported).from_config(
        exported.config, return_unused_kwargs=True, depth=1, colour="red"
    )
    assert (smaller.config.depth, len(smaller.network.blocks)) == (1, 1)
    assert unused == {"colour": "red"}
