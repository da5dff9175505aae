import pytest
import torch

from mdt_cli.core.sampling.to_uint8 import to_uint8


def one(value, rule):
    return to_uint8(torch.full((1, 3, 1, 1), value), rule).flatten().tolist()[0]


@pytest.mark.parametrize(
    ("value", "rounded", "truncated"),
    [(-1.0, 0, 0), (-1.2, 0, 0), (1.0, 255, 255), (3.0, 255, 255), (0.0, 128, 127)],
)
def test_rules_at_the_ends_and_the_middle(value, rounded, truncated):
    assert one(value, "round") == rounded
    assert one(value, "truncate") == truncated


def test_round_undoes_the_pixel_codec_exactly():
    levels = torch.arange(256, dtype=torch.uint8)
    stored = levels.float() / 127.5 - 1
    image = stored.view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_uint8(image, "round")[0, :, :, 0].flatten(), levels)


def test_truncation_is_half_a_level_darker_on_average():
    values = torch.linspace(-0.9, 0.9, 30000).view(1, 3, 100, 100)
    gap = to_uint8(values, "round").float().mean() - to_uint8(values, "truncate").float().mean()
    assert float(gap) == pytest.approx(0.5, abs=0.02)


def test_channels_go_last():
    image = torch.stack([torch.full((2, 3), v) for v in (-1.0, 0.0, 1.0)])[None]
    out = to_uint8(image, "round")
    assert out.shape == (1, 2, 3, 3)
    assert out[0, 0, 0].tolist() == [0, 128, 255]
