"""What the tests of the sample stage start from."""

import pytest

from mdt_cli.services.sample import SampleRequest
from tests.services.tiny_weights import write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture
def request_(weights, tmp_path):
    return SampleRequest(weights, tmp_path / "out", seeds="0-9", batch_size=4, device="cpu")
