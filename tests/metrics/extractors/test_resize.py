"""Our resizing beside that of clean-fid, torch-fidelity and the published TorchScript."""

import warnings

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from torch import Tensor
from torch.nn import functional as F
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from mdt_cli.metrics.extractors import resize
from tests.pictures import array
from tests.reference import metrics as reference

SHAPES = [(32, 32), (299, 299), (40, 64), (500, 333), (1, 7)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize(
    ("mode", "rule"), [("clean", resize.clean), ("legacy_pytorch", resize.bilinear)]
)
def test_equals_clean_fid(mode: str, rule: resize.Prepare, height: int, width: int) -> None:
    with warnings.catch_warnings():
        # clean-fid silences all warnings of the process.
        theirs = build_resizer(mode)(picture(height, width))
        ours = rule(299)(picture(height, width))
    assert ours.shape == (3, 299, 299)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs.transpose(2, 0, 1)).max() == 0


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_tensorflows_rule_is_torch_fidelitys(height: int, width: int) -> None:
    image = torch.from_numpy(picture(height, width)).permute(2, 0, 1)[None].float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(image, (299, 299), align_corners=False)
    assert (resize.tensorflow_bilinear(image, 299) - theirs).abs().max() < 1e-4


def test_tensorflows_rule_is_that_of_the_torchscript_graph() -> None:
    """Which shifts a sampling grid by half a pixel of each side."""

    def graph(image: Tensor) -> Tensor:
        theta = torch.eye(2, 3)
        theta[0, 2] += theta[0, 0] / image.shape[3] - theta[0, 0] / 299
        theta[1, 2] += theta[1, 1] / image.shape[2] - theta[1, 1] / 299
        grid = F.affine_grid(theta[None], [1, 3, 299, 299], align_corners=False)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)

    for side in (32, 64, 256, 512):
        image = torch.from_numpy(array(0, side, side)).permute(2, 0, 1)[None].float()
        assert (resize.tensorflow_bilinear(image, 299) - graph(image)).abs().max() < 0.02


def test_the_rules_are_different() -> None:
    pixels = picture(64, 64)
    image = torch.from_numpy(resize.as_they_are(pixels))[None]
    found = [
        torch.from_numpy(resize.clean(299)(pixels)),
        torch.from_numpy(resize.bilinear(299)(pixels)),
        resize.tensorflow_bilinear(image, 299)[0],
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] - found[other]).abs().mean() > 1


@pytest.mark.parametrize(("height", "width"), [(50, 50), (500, 500), (401, 640), (337, 336)])
def test_cmmds_rule_is_antialiased_bicubic_of_the_middle_square(height: int, width: int) -> None:
    pixels = picture(height, width)
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = pixels[top : top + edge, left : left + edge].astype(float)
    weights = reference.antialiased_cubic(edge, 336)
    # Rows first, and both passes end in 8 bits.
    rows = np.einsum("sw,hwc->hsc", weights, square).round().clip(0, 255)
    expected = np.einsum("sh,hwc->swc", weights, rows).round().clip(0, 255)
    ours = resize.square_bicubic(336)(pixels)
    assert (ours.shape, ours.dtype) == ((3, 336, 336), np.float32)
    # Pillow's weights are integers: a value near a half may round the other way.
    assert np.abs(ours - expected.transpose(2, 0, 1)).max() <= 1
