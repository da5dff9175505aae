"""Autoencoders against diffusers called directly: scale, shift, moments, identity of weights."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from mdt_cli.core.codecs.autoencoder import load_autoencoder
from mdt_cli.core.codecs.codec import codec_from_facts, open_codec
from mdt_cli.core.codecs.pixels import PixelCodec
from mdt_cli.errors import MdtError
from tests.autoencoders import save_autoencoder

CPU = torch.device("cpu")


def some_images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_autoencoder(tmp_path_factory.mktemp("kl"), scaling_factor=0.25, shift_factor=0.5)


def test_moments_are_shifted_and_scaled(folder: str) -> None:
    codec, x = load_autoencoder(folder, CPU), some_images()
    with torch.no_grad():
        posterior = diffusers.AutoencoderKL.from_pretrained(folder).encode(x).latent_dist
    mean, std = codec.encode(x)
    assert std is not None
    assert (mean - (posterior.mean - 0.5) * 0.25).abs().max() < 1e-5
    assert (std - posterior.std * 0.25).abs().max() < 1e-6
    assert codec.latent_shape(16) == tuple(mean.shape[1:]) == (4, 8, 8)


def test_decode_undoes_shift_and_scale(folder: str) -> None:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = diffusers.AutoencoderKL.from_pretrained(folder).decode(z).sample
    assert (load_autoencoder(folder, CPU).decode((z - 0.5) * 0.25) - expected).abs().max() < 1e-5


def test_latents_mean_and_std_of_the_config_are_used(tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    extra = {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    facts = load_autoencoder(save_autoencoder(tmp_path, **extra), CPU).facts()
    assert facts["shift"] == mean
    assert facts["scale"] == [0.5, 0.25, 0.5 / 3, 0.125]


@pytest.mark.parametrize(
    ("kind", "field"),
    [("AutoencoderTiny", "latents"), ("VQModel", "latents"), ("AutoencoderDC", "latent")],
)
def test_deterministic_kinds(tmp_path: Path, kind: str, field: str) -> None:
    codec, x = load_autoencoder(save_autoencoder(tmp_path, kind), CPU), some_images()
    model = getattr(diffusers, kind).from_pretrained(tmp_path)
    with torch.no_grad():
        z = getattr(model.encode(x), field)
        image = model.decode(z).sample
    mean, std = codec.encode(x)
    assert std is None
    assert (mean - z * model.config.scaling_factor).abs().max() < 1e-5
    assert (codec.decode(mean) - image).abs().max() < 1e-4
    assert codec.facts()["stochastic"] is False


def test_bytes_do_not_depend_on_threads_or_batch(folder: str) -> None:
    codec, x = load_autoencoder(folder, CPU), some_images()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = codec.encode(x)
        torch.set_num_threads(2)
        assert torch.equal(codec.encode(x)[0], alone)
        assert torch.equal(codec.encode(x[1:])[0], alone[1:])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_facts_find_the_codec_again(folder: str, tmp_path: Path) -> None:
    facts = json.loads(json.dumps(load_autoencoder(folder, CPU).facts()))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = load_autoencoder(folder, CPU).decode(z)
    assert torch.equal(codec_from_facts(facts, CPU).decode(z), expected)
    assert torch.equal(codec_from_facts(facts, CPU, str(moved)).decode(z), expected)


def test_the_scale_of_the_cache_wins(folder: str) -> None:
    facts = load_autoencoder(folder, CPU).facts() | {"scale": [1.0] * 4, "shift": [0.0] * 4}
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = load_autoencoder(folder, CPU).decode((z - 0.5) * 0.25)
    assert (codec_from_facts(facts, CPU).decode(z) - expected).abs().max() < 1e-5


def test_other_weights_are_refused(folder: str, tmp_path: Path) -> None:
    facts = load_autoencoder(folder, CPU).facts()
    with pytest.raises(MdtError, match="is not the one the latents were made with"):
        codec_from_facts(facts, CPU, save_autoencoder(tmp_path, seed=1))


def test_a_pipeline_folder_will_do(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "vae")
    assert load_autoencoder(str(tmp_path), CPU).facts()["kind"] == "AutoencoderKL"


def test_size_must_fit(folder: str) -> None:
    with pytest.raises(MdtError, match="images of 15 pixels do not fit"):
        load_autoencoder(folder, CPU).latent_shape(15)


def test_what_is_no_codec_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MdtError, match="neither pixels nor a folder"):
        open_codec("vae", CPU)
    with pytest.raises(MdtError, match="no autoencoder in"):
        open_codec(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(MdtError, match="is a UNet2DModel"):
        open_codec(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(MdtError, match="cannot be loaded"):
        open_codec(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MdtError, match="cannot be read"):
        open_codec(str(tmp_path), CPU)


def test_offline_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MdtError, match="could not be downloaded") as caught:
        open_codec("nobody/such-an-autoencoder", CPU)
    assert "--codec pixels" in str(caught.value.hint)


def test_pixels_are_themselves() -> None:
    codec, x = PixelCodec(), some_images()
    assert codec.encode(x)[1] is None
    assert torch.equal(codec.decode(codec.encode(x)[0]), x)
    assert codec_from_facts(codec.facts(), CPU).latent_shape(16) == (3, 16, 16)
    with pytest.raises(MdtError, match="cannot be decoded by"):
        codec_from_facts(codec.facts(), CPU, "some/vae")


def test_pixels_do_not_decode_latents(folder: str) -> None:
    with pytest.raises(MdtError, match="are not pixels"):
        codec_from_facts(load_autoencoder(folder, CPU).facts(), CPU, "pixels")
