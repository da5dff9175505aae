"""What the tests of the sample and evaluate stages start from."""

import pytest

from mdt_cli.metrics.extractors import weights as weight_files
from mdt_cli.services.sample.sample import SampleRequest
from tests.metrics.stand_in import write_stand_in
from tests.pictures import png, write_folder
from tests.services.tiny_weights import write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture
def request_(weights, tmp_path):
    return SampleRequest(weights, tmp_path / "out", seeds="0-9", batch_size=4, device="cpu")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Of downloaded networks: an empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def inception(own_cache, tmp_path, monkeypatch):
    """A small network that passes for Inception's file."""
    file = tmp_path / "stand-in.pt"
    monkeypatch.setattr(weight_files, "INCEPTION_SHA256", write_stand_in(file))
    return file


@pytest.fixture
def sets(tmp_path):
    """Folders of 7 samples and of 6 reference images, 16 x 16."""
    samples = write_folder(tmp_path / "samples", {f"{i:06d}.png": png(i) for i in range(7)})
    reference = write_folder(tmp_path / "real", {f"c/{i}.png": png(50 + i) for i in range(6)})
    return samples, reference
