"""Exports with an autoencoder inside, and a plain DiT as diffusers' own class."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.services.build.sampler import generate
from mdt_cli.services.events import ExportDone, Note
from mdt_cli.services.export.diffusers_folder import load_as_stranger
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.inspection.inspect import inspect
from mdt_cli.services.model import fixed_inputs, load_trained
from tests.services.small_networks import DIGITS, DIT, EDM, NAMES, weights_file

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def autoencoder(tmp_path: Path) -> dict[str, Any]:
    """Facts of a small AutoencoderKL folder: 16 pixels to 4 x 8 x 8."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    model.save_pretrained(tmp_path / "autoencoder")
    return open_codec(str(tmp_path / "autoencoder"), CPU).facts()


def weights(path: Path, recipe: Any, codec: dict[str, Any], **options: Any) -> Path:
    return weights_file(path, recipe, (4, 8, 8), codec=codec, image_size=16, **options)


def test_the_autoencoder_goes_along(tmp_path: Path, autoencoder: dict[str, Any]) -> None:
    source = weights(tmp_path / "w.safetensors", DIGITS, autoencoder)
    *_, done = export(ExportRequest(source, tmp_path / "out"))
    assert isinstance(done, ExportDone)
    trained = load_trained(source, None, CPU)
    latents = generate(
        trained.network,
        trained.loss.diffusion,
        trained.config.sampling,
        (4, 8, 8),
        3,
        [1, 2],
        [0, 1],
        CPU,
    )
    expected = to_uint8(open_codec(autoencoder["id"], CPU).decode(latents), "round").numpy()
    # The copy in the folder must serve: the original is gone.
    (tmp_path / "autoencoder").rename(tmp_path / "elsewhere")
    pictures = load_as_stranger(tmp_path / "out")(["cat", "dog"], seeds=[1, 2]).images
    for picture, pixels in zip(pictures, expected, strict=True):
        assert np.abs(np.asarray(picture).astype(int) - pixels).max() <= 1
    for text in ("README.md", "model_index.json", "vae/config.json", "transformer/config.json"):
        assert str(tmp_path) not in (tmp_path / "out" / text).read_text()


def test_an_autoencoder_that_overflows_in_half_precision_decodes_in_float32(
    tmp_path: Path, autoencoder: dict[str, Any]
) -> None:
    source = weights(tmp_path / "w.safetensors", DIGITS, autoencoder)
    list(export(ExportRequest(source, tmp_path / "out")))
    pipe = load_as_stranger(tmp_path / "out").to(torch.float16)
    assert pipe.vae.config.force_upcast
    with torch.no_grad():
        # float16 ends at 65,504; the group norm behind takes the factor out again.
        pipe.vae.decoder.conv_in.weight.mul_(2e5)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        assert not pipe.vae.decode(latents.half()).sample.isfinite().all()
        images = pipe.decode(latents)
    assert bool(images.isfinite().all())
    assert pipe.vae.dtype == torch.float16


@pytest.mark.parametrize("format", ["diffusers", "diffusers-dit", "torch-export"])
def test_what_is_told_of_the_codec_is_told_of_the_one_that_was_opened(
    tmp_path: Path, autoencoder: dict[str, Any], format: str
) -> None:
    """Imported weights know their autoencoder by name; the one at hand has a digest."""
    named = {**autoencoder, "id": "owner/first", "weights_sha256": None}
    source = weights(tmp_path / "w.safetensors", DIT, named)
    out = tmp_path / ("out.pt2" if format == "torch-export" else "out")
    list(export(ExportRequest(source, out, format, codec=autoencoder["id"])))
    if format == "torch-export":
        told = str(inspect(out).facts["data"]["codec"])
    else:
        told = (out / "README.md").read_text()
    assert autoencoder["weights_sha256"] in told
    assert "owner/first" not in told
    assert str(tmp_path) not in told


def test_a_plain_dit_as_diffusers_own_class(tmp_path: Path, autoencoder: dict[str, Any]) -> None:
    names = ("cat, tabby", "dog", "owl")
    source = weights(tmp_path / "w.safetensors", DIT, autoencoder, names=names)
    *notes, done = export(
        ExportRequest(source, tmp_path / "out", format="diffusers-dit", license="mit")
    )
    assert isinstance(done, ExportDone)
    assert done.parity <= 1e-5
    assert any(isinstance(note, Note) and "outputs differ by up to" in note.text for note in notes)
    pipe = load_as_stranger(tmp_path / "out")
    assert type(pipe).__name__ == "DiTPipeline"
    assert type(pipe.transformer).__mro__[1].__name__ == "DiTTransformer2DModel"
    trained = load_trained(source, None, CPU)
    x, t = torch.randn(5, 4, 8, 8), torch.tensor([0, 250, 500, 750, 999])
    ours = trained.network(x, t, torch.tensor([0, 1, 2, 3, 3])).final
    # Row 1000 is the null class, and so is any row without a class.
    theirs = pipe.transformer(x, t, torch.tensor([0, 1, 2, 1000, 500])).sample.detach()
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    labels = pipe.get_label_ids(["tabby", "owl"])
    assert labels == [0, 2]
    pipe.set_progress_bar_config(disable=True)
    images = pipe(labels, num_inference_steps=2, guidance_scale=2.0, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("learned variance", "all latent channels", "shift_factor", "with a comma"):
        assert part in card


def test_ddim_of_the_dit_folder_starts_and_ends_like_ours(
    tmp_path: Path, autoencoder: dict[str, Any]
) -> None:
    """The scheduler's table of signal shares is that of our objective."""
    source = weights(tmp_path / "w.safetensors", DIT, autoencoder)
    list(export(ExportRequest(source, tmp_path / "out", format="diffusers-dit")))
    scheduler = load_as_stranger(tmp_path / "out").scheduler
    ours = load_trained(source, None, CPU).loss.diffusion
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), ours.chain.alphas_cumprod, rtol=0, atol=1e-6
    )
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [999, 799, 599, 399, 199]


def test_what_is_no_plain_dit_is_named(tmp_path: Path, autoencoder: dict[str, Any]) -> None:
    out = tmp_path / "out"
    edm = weights(tmp_path / "edm.safetensors", EDM, autoencoder)
    with pytest.raises(MdtError, match="its objective is edm, not epsilon"):
        list(export(ExportRequest(edm, out, format="diffusers-dit")))
    many = tuple(f"class {i}" for i in range(1001))
    source = weights(tmp_path / "many.safetensors", DIT, autoencoder, names=many)
    with pytest.raises(MdtError, match="it has 1001 classes; DiTPipeline supports 1000"):
        list(export(ExportRequest(source, out, format="diffusers-dit")))
    pixels = weights_file(tmp_path / "pixels.safetensors", DIT, (3, 8, 8))
    with pytest.raises(MdtError, match="this network's codec is pixels"):
        list(export(ExportRequest(pixels, out, format="diffusers-dit")))
    assert not out.exists()


def test_other_autoencoder_weights_are_refused(tmp_path: Path, autoencoder: dict[str, Any]) -> None:
    facts = {**autoencoder, "weights_sha256": "1" * 64}
    source = weights(tmp_path / "w.safetensors", DIGITS, facts)
    with pytest.raises(MdtError, match="is not the one the latents were made with"):
        list(export(ExportRequest(source, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_fixed_inputs_hold_every_kind_of_class(tmp_path: Path) -> None:
    trained = load_trained(weights_file(tmp_path / "w.safetensors", DIT), None, CPU)
    inputs = fixed_inputs(trained)
    assert inputs.y is not None
    assert int(inputs.y[-1]) == len(NAMES)
    assert inputs.t.tolist() == [125, 375, 625, 875]
    assert json.loads(json.dumps(inputs.x.std().item())) > 0.5
