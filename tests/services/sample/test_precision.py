"""What the words of `sampling.precision` do, as far as a CPU can tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdt_cli.core.precision import float32
from mdt_cli.errors import MdtError
from mdt_cli.metrics.extractors.extractor import _exact
from mdt_cli.services.model import load_trained
from mdt_cli.services.runtime import Autocast
from tests.services.sampled import manifest, pixels, run
from tests.services.tiny_weights import write_weights

CPU = torch.device("cpu")


def flags():
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


@pytest.mark.parametrize(
    ("tf32", "inside"),
    [(False, (False, False, "highest")), (True, (True, True, "high"))],
)
def test_convolutions_and_products_are_set_and_put_back(tf32, inside):
    before = flags()
    with float32(tf32):
        assert flags() == inside
    assert flags() == before


def test_features_are_exact_whatever_is_around_them():
    with float32(tf32=True):
        with _exact():
            assert flags() == (False, False, "highest")
        assert flags() == (True, True, "high")


def test_the_network_and_the_decoder_run_at_the_precision_that_is_recorded(request_, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mdt_cli.core.codecs.pixels.PixelCodec.decode",
        lambda self, latents: (seen.append(flags()), latents)[1],
    )
    run(replace(request_, seeds="0"))
    assert seen == [(False, False, "highest")]
    assert manifest(request_.out)["precision"] == "float32"


def test_a_cpu_has_no_tf32_and_says_so(request_, tmp_path):
    run(replace(request_, seeds="0-3"))
    path = write_weights(tmp_path / "w.safetensors", sampling={"precision": "tf32"})
    other = replace(request_, weights=path, seeds="0-3", out=tmp_path / "tf32")
    run(other)
    assert manifest(other.out)["precision"] == "float32"
    for name in ("000000.png", "000003.png"):
        assert np.array_equal(pixels(request_.out / name), pixels(other.out / name))


def test_bf16_where_it_would_be_slow_is_refused(request_, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(
        MdtError, match=r"no native bf16 support: sampling\.precision=bf16"
    ) as caught:
        run(replace(request_, precision="bf16"))
    assert "float32" in caught.value.hint
    assert not request_.out.exists()


def test_bf16_is_recorded_and_keeps_a_folder_apart(request_, tmp_path, monkeypatch):
    """Nearly the float32 pictures: bf16 keeps 8 bits, and the tiny network adds up few terms."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    run(replace(request_, seeds="0-3"))
    half = replace(request_, seeds="0-3", precision="bf16", out=tmp_path / "half")
    run(half)
    assert manifest(half.out)["precision"] == "bf16"
    gaps = [
        pixels(request_.out / f"{seed:06d}.png").astype(int) - pixels(half.out / f"{seed:06d}.png")
        for seed in range(4)
    ]
    assert 0 < np.abs(gaps).max() <= 8
    with pytest.raises(MdtError, match="precision: bf16 there, float32 now"):
        run(replace(half, precision="float32"))


def test_a_network_under_autocast_answers_in_float32(weights):
    network = load_trained(weights, None, CPU).network
    x, t_B, y_B = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([0, 1])
    plain, half = network(x, t_B, y_B).final, Autocast(network)(x, t_B, y_B).final
    assert half.dtype == torch.float32
    # bf16 keeps 8 bits: 2 ** -8 for each of a few roundings.
    assert 0 < float((plain - half).abs().max()) < 0.05 * float(plain.abs().max())
