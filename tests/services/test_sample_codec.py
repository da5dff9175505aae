"""Sampling in the latent space of an autoencoder."""

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.core.sampling.pixels import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.services.drawing import draw
from mdt_cli.services.sample import SampleRequest, sample
from mdt_cli.services.trained import load_trained
from tests.autoencoders import save_autoencoder
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
    latents = draw(
        trained.network,
        trained.objective,
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
