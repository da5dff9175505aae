"""Sampling in the latent space of an autoencoder."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.services.build.sampler import generate
from mdt_cli.services.model import load_trained
from mdt_cli.services.sample.sample import SampleRequest, sample
from tests.autoencoders import save_autoencoder
from tests.services.sampled import manifest, run
from tests.services.tiny_weights import write_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def latent_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    codec = open_codec(save_autoencoder(folder / "vae", scaling_factor=0.5), CPU)
    path = write_weights(
        folder / "w.safetensors",
        codec=codec.facts(),
        latent_shape=codec.latent_shape(16),
        image_size=16,
    )
    return path, codec


def test_pictures_are_the_decoded_latents(latent_weights, tmp_path):
    path, codec = latent_weights
    list(sample(SampleRequest(path, tmp_path / "out", seeds="3-5", classes="1", device="cpu")))
    trained = load_trained(path, None, CPU)
    latents = generate(
        trained.network,
        trained.loss.diffusion,
        trained.config.sampling,
        codec.latent_shape(16),
        4,
        [3, 4, 5],
        [1, 1, 1],
        CPU,
    )
    expected = to_uint8(codec.decode(latents), "round").numpy()
    for row, seed in enumerate((3, 4, 5)):
        with Image.open(tmp_path / "out" / f"{seed:06d}.png") as image:
            assert image.size == (16, 16)
            assert np.array_equal(np.asarray(image), expected[row])


def test_an_autoencoder_of_other_weights_is_refused(latent_weights, tmp_path):
    path, _ = latent_weights
    other = save_autoencoder(tmp_path / "other", seed=1)
    request = SampleRequest(path, tmp_path / "out", codec=other, device="cpu")
    with pytest.raises(MdtError, match="is not the one the latents were made with"):
        list(sample(request))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def imported(latent_weights, tmp_path):
    """Weights that, as imported ones, name an autoencoder but not its digest."""
    _, codec = latent_weights
    return write_weights(
        tmp_path / "imported.safetensors",
        codec={**codec.facts(), "weights_sha256": None},
        latent_shape=codec.latent_shape(16),
        image_size=16,
    )


@pytest.mark.parametrize("format", ["png", "npz"])
def test_two_decoders_do_not_share_a_folder(latent_weights, imported, tmp_path, format):
    _, codec = latent_weights
    request = SampleRequest(
        imported, tmp_path / "out", seeds="0-1", format=format, batch_size=2, device="cpu"
    )
    run(request)
    said = manifest(request.out)["codec"]
    assert said["weights_sha256"] == codec.facts()["weights_sha256"]
    other = save_autoencoder(tmp_path / "other", seed=1)
    with pytest.raises(MdtError, match=r"codec.weights_sha256: .* there, .* now"):
        run(replace(request, codec=other))
    alone = replace(request, codec=other, out=tmp_path / "alone")
    run(alone)
    named = manifest(alone.out)["codec"]
    assert named["id"] == other
    assert named["weights_sha256"] not in (None, said["weights_sha256"])


def test_the_same_autoencoder_at_another_place_goes_on(latent_weights, tmp_path):
    path, codec = latent_weights
    request = SampleRequest(path, tmp_path / "out", seeds="0-1", batch_size=2, device="cpu")
    run(request)
    moved = shutil.copytree(codec.facts()["id"], tmp_path / "moved")
    done, _ = run(replace(request, seeds="0-3", codec=str(moved)))
    assert done.drawn == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [("VQModel", "channels 3, not 4, kind VQModel, not AutoencoderKL"), ("four", "downsampling 4")],
)
def test_an_autoencoder_that_cannot_be_meant_is_refused(imported, tmp_path, kind, message):
    """Without a digest only its shape can tell."""
    if kind == "VQModel":
        other = save_autoencoder(tmp_path / "other", kind)
    else:
        import diffusers

        other = str(tmp_path / "other")
        widths = {"block_out_channels": (4, 4, 4), "norm_num_groups": 2, "latent_channels": 4}
        down, up = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
        model = diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, **widths)
        model.save_pretrained(other)
    request = SampleRequest(imported, tmp_path / "out", codec=other, device="cpu")
    with pytest.raises(MdtError, match=f"does not fit the latents.*{message}"):
        run(request)
    assert not request.out.exists()
