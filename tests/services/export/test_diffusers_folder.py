"""Exports: checked, whole or absent, and the same network as ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.artifacts.weights import read_header, read_tensors
from mdt_cli.config.load import load_config
from mdt_cli.config.sampling import GuidanceConfig, SamplingConfig
from mdt_cli.errors import MdtError
from mdt_cli.services.build.sampler import generate
from mdt_cli.services.events import ExportDone, Warned
from mdt_cli.services.export.diffusers_folder import TABLES, load_as_stranger
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.export.templates import pipeline
from mdt_cli.services.model import TRAINING_ONLY, fixed_inputs, load_trained
from tests.services.small_networks import (
    DIGITS,
    DIT,
    EDM,
    INTERNAL,
    MDTV2,
    MODERN,
    TINY,
    weights_file,
)

CPU = torch.device("cpu")
UNCONDITIONAL = (DIGITS[0], (*DIGITS[1], "data.conditional=false"))


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers copies remote code to the user's cache; tests leave that alone."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_exported_folders_know_every_kind_of_guidance() -> None:
    kinds = get_args(get_args(GuidanceConfig)[0])
    assert set(kinds) <= set(TABLES["mdt_cli.config.sampling"])
    for kind in kinds:
        table = SamplingConfig(guidance=kind()).model_dump(mode="json")
        settings = pipeline._settings(table, None, None)
        assert isinstance(settings.guidance, kind)


def run(source: Path, out: Path, **options: Any) -> ExportDone:
    *_, done = export(ExportRequest(source, out, **options))
    assert isinstance(done, ExportDone)
    return done


RECIPES = {
    **{"mdtv2": MDTV2, "digits": DIGITS, "dit": DIT, "edm": EDM, "no classes": UNCONDITIONAL},
    **{"modern": MODERN, "internal": INTERNAL},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_diffusers_folder_draws_what_mdt_draws(name: str, tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", RECIPES[name], latent_shape=(4, 8, 8))
    done = run(source, tmp_path / "out", license="apache-2.0")
    assert done.parity <= 1e-6
    pipe = load_as_stranger(tmp_path / "out")
    trained = load_trained(source, None, CPU)
    seeds = [5, 0, 11]
    labels = None if name == "no classes" else [2, 0, 1]
    ours = generate(
        trained.network,
        trained.loss.diffusion,
        trained.config.sampling,
        (4, 8, 8),
        trained.num_classes,
        seeds,
        labels,
        CPU,
    )
    named = None if labels is None else ["owl", 0, "dog"]
    theirs = pipe(class_labels=named, seeds=seeds, output_type="latent").images
    assert ours.std() > 0.1
    # A random network's first estimate is up to 158 times too large: the bound goes along.
    within = {"rtol": 0, "atol": 1e-5 * max(1.0, float(ours.abs().max()))}
    torch.testing.assert_close(theirs, ours, **within)
    chosen_by_seed = pipe(seeds=seeds[:1], output_type="latent").images
    expected = generate(
        trained.network,
        trained.loss.diffusion,
        trained.config.sampling,
        (4, 8, 8),
        trained.num_classes,
        seeds[:1],
        None,
        CPU,
    )
    torch.testing.assert_close(chosen_by_seed, expected, **within)


def test_pictures_settings_and_faults_of_the_pipeline(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    run(source, tmp_path / "out")
    pipe = load_as_stranger(tmp_path / "out")
    (picture,) = pipe("dog", seeds=3).images
    assert (picture.size, picture.mode) == ((8, 8), "RGB")
    assert pipe("dog", seeds=3, output_type="np").images.shape == (1, 8, 8, 3)
    assert pipe.labels == {"cat": 0, "dog": 1, "owl": 2}
    latent = {"seeds": 3, "output_type": "latent"}
    scale = load_config(*DIGITS).config.sampling.guidance.scale
    guided = pipe("dog", **latent).images
    assert not torch.equal(guided, pipe("dog", **latent, guidance_scale=1.0).images)
    assert torch.equal(guided, pipe("dog", **latent, guidance_scale=scale).images)
    assert not torch.equal(guided, pipe("dog", **latent, num_inference_steps=5).images)
    first = pipe("dog", generator=torch.Generator().manual_seed(1), output_type="pt").images
    again = pipe("dog", generator=torch.Generator().manual_seed(1), output_type="pt").images
    assert torch.equal(first, again)
    assert len(pipe(batch_size=2).images) == 2
    for wrong, sentence in (
        ({"class_labels": "cow"}, "no class 'cow'"),
        ({"class_labels": 3}, "no class 3"),
        ({"class_labels": ["cat", "dog"], "seeds": [1]}, "2 class_labels for 1 seeds"),
        ({"output_type": "jpeg"}, "output_type"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipe(**wrong)


def test_two_folders_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    pipes = []
    for name, recipe in (("a", DIGITS), ("b", DIT)):
        source = weights_file(tmp_path / f"{name}.safetensors", recipe, latent_shape=(4, 8, 8))
        run(source, tmp_path / name)
        pipes.append(load_as_stranger(tmp_path / name))
        pipes[0]("cat", seeds=0, output_type="latent")
    assert pipes[0].transformer.config.depth != pipes[1].transformer.config.depth


def test_a_folder_loads_in_half_precision(tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    source = weights_file(tmp_path / "w.safetensors", DIT, latent_shape=(4, 8, 8))
    run(source, tmp_path / "out")
    pipe = DiffusionPipeline.from_pretrained(
        str(tmp_path / "out"), trust_remote_code=True, dtype=torch.bfloat16
    )
    assert pipe.transformer.dtype == torch.bfloat16
    latents = pipe("cat", seeds=0, output_type="latent").images
    assert bool(latents.isfinite().all())


def test_every_fixed_table_follows_into_half_precision(tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    narrow = [
        f"model.narrow_decoder.{size}" for size in ("depth=1", "hidden_size=32", "num_heads=2")
    ]
    settings = ("model.depth=2", "sampling.steps=2", "model.positions=learned", *narrow)
    recipe = (("maskdit",), (*TINY, *settings))
    source = weights_file(tmp_path / "w.safetensors", recipe, latent_shape=(4, 8, 8))
    run(source, tmp_path / "out")
    pipe = DiffusionPipeline.from_pretrained(
        str(tmp_path / "out"), trust_remote_code=True, dtype=torch.bfloat16
    )
    assert pipe.transformer.network.narrow.positions_ND.dtype == torch.float32
    latents = pipe("cat", seeds=0, output_type="latent").images
    assert bool(latents.isfinite().all())


def test_names_and_guidance_mean_what_they_mean_to_mdt_sample(tmp_path: Path) -> None:
    names = tuple("crane" if k in (2, 10) else f"class {k}" for k in range(12))
    source = weights_file(tmp_path / "w.safetensors", DIGITS, names=names)
    run(source, tmp_path / "out")
    pipe = load_as_stranger(tmp_path / "out")
    assert pipe.get_label_ids("crane") == [names.index("crane")]
    # diffusers sorts what it saves as text, where "10" comes before "2".
    pipe.save_pretrained(tmp_path / "again")
    assert load_as_stranger(tmp_path / "again").get_label_ids("crane") == [2]
    source = weights_file(tmp_path / "plain.safetensors", UNCONDITIONAL)
    run(source, tmp_path / "plain")
    pipe = load_as_stranger(tmp_path / "plain")
    with pytest.raises(ValueError, match="no classes to guide by"):
        pipe(seeds=0, guidance_scale=2.0)
    unguided = pipe(seeds=0, guidance_scale=1.0, output_type="latent").images
    assert torch.equal(unguided, pipe(seeds=0, output_type="latent").images)


STRANGER = """
import sys

class NoMdt:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mdt_cli":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoMdt())
try:
    import mdt_cli
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("mdt_cli can be imported here")

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

stored = load_file("stored.safetensors")
pipe = DiffusionPipeline.from_pretrained("model", trust_remote_code=True)
with torch.no_grad():
    (answer,) = pipe.transformer(stored["x"], stored["t"], stored["y"], return_dict=False)
latents = pipe(["owl", "cat"], seeds=[4, 9], output_type="latent").images
assert pipe(["owl"], seeds=[4]).images[0].size == (8, 8)
assert not any(name.partition(".")[0] == "mdt_cli" for name in sys.modules)
print(float((answer - stored["answer"]).abs().max()))
print(float((latents - stored["latents"]).abs().max()))
"""


def test_a_stranger_without_mdt_gets_the_same_answers(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", MDTV2)
    elsewhere = tmp_path / "elsewhere"
    run(source, elsewhere / "model")
    trained = load_trained(source, None, CPU)
    inputs = fixed_inputs(trained)
    assert inputs.y is not None
    latents = generate(
        trained.network,
        trained.loss.diffusion,
        trained.config.sampling,
        (3, 8, 8),
        3,
        [4, 9],
        [2, 0],
        CPU,
    )
    stored = {
        "x": inputs.x,
        "t": inputs.t,
        "y": inputs.y,
        "answer": trained.network(inputs.x, inputs.t, inputs.y).final,
        "latents": latents,
    }
    save_file(stored, elsewhere / "stored.safetensors")
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_HOME": str(tmp_path / "home"),
    }
    found = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answer, drawn = (float(line) for line in found.stdout.split())
    assert answer <= 1e-5
    assert drawn <= 1e-5


def test_safetensors_hold_what_sampling_needs_and_nothing_else(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", MDTV2)
    assert any(name.startswith(TRAINING_ONLY) for name in read_tensors(source))
    done = run(source, tmp_path / "out.safetensors", format="safetensors")
    assert done.parity == 0
    assert not any(name.startswith(TRAINING_ONLY) for name in read_tensors(Path(done.path)))
    assert read_header(Path(done.path)) == read_header(source)


@pytest.mark.parametrize(
    ("format", "name", "told"),
    [
        (
            "safetensors",
            "out.safetensors",
            "--codec, --license, --report",
        ),
        ("torch-export", "out.pt2", "--license, --report"),
    ],
)
def test_what_a_format_cannot_hold_is_told(
    tmp_path: Path, format: str, name: str, told: str
) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    given = {"codec": "pixels", "license": "mit", "report": tmp_path / "report.json"}
    events = list(export(ExportRequest(source, tmp_path / name, format, **given)))
    assert [event.text for event in events if isinstance(event, Warned)] == [
        f"{told} are ignored with --format {format}"
    ]
    events = list(export(ExportRequest(source, tmp_path / f"plain-{name}", format)))
    assert not any(isinstance(event, Warned) for event in events)


def test_faults_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = weights_file(tmp_path / "w.safetensors", MDTV2)
    out = tmp_path / "out"
    for options, sentence in (
        ({"format": "difusers"}, "did you mean diffusers"),
        ({"format": "diffusers-dit"}, "relative position bias; it has a decoder; it has long"),
        ({"report": tmp_path / "none.json"}, "none.json cannot be read"),
        ({"codec": "some/autoencoder"}, "latents are pixels"),
    ):
        with pytest.raises(MdtError, match=sentence):
            run(source, out, **options)
    not_a_report = tmp_path / "other.json"
    not_a_report.write_text("{}")
    with pytest.raises(MdtError, match="is not a report"):
        run(source, out, report=not_a_report)
    monkeypatch.setattr("mdt_cli.services.export.export.largest_difference", lambda *_: 1e-3)
    monkeypatch.setattr(
        "mdt_cli.services.export.diffusers_folder.largest_difference", lambda *_: float("inf")
    )
    for format, name in (("diffusers", "out"), ("safetensors", "out.safetensors")):
        with pytest.raises(MdtError, match="differ from those of the trained network"):
            run(source, tmp_path / name, format=format)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "modules") == [
        "other.json",
        "w.safetensors",
    ]
    out.mkdir()
    with pytest.raises(MdtError, match="exists already"):
        run(source, out)
