"""How images reach the size a network wants: part of the definition of every score.

Axes: B images, H W pixels in, S pixels a side out. Pixels are 0..255.
"""

from collections.abc import Callable

import numpy as np
import torch
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mdt_cli.images.decode import Pixels

RESIZE_RULES = {
    "clean": "Pillow bicubic with antialiasing, in float, not rounded (clean-fid's 'clean')",
    "legacy_tensorflow": "bilinear without antialiasing, corners aligned to the upper left "
    "(TensorFlow 1, ADM)",
    "legacy_pytorch": "bilinear without antialiasing, pixel centres aligned (pytorch-fid)",
    "cmmd": "the middle square, Pillow bicubic with antialiasing, rounded to 8 bits "
    "(the published CMMD)",
    "none": "the module gets the images as they are",
}
Prepare = Callable[[Pixels], NDArray[np.float32]]


def as_they_are(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """[H,W,3] -> float32 [3,H,W], values unchanged."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def clean(side: int) -> Prepare:
    """Parmar et al. 2022: the filter grows with the shrinking, so nothing aliases."""
    resizer = make_resizer("PIL", False, "bicubic", (side, side))
    return lambda pixels: as_they_are(resizer(pixels))


def bilinear(side: int) -> Prepare:
    """torch's interpolation without antialiasing, as pytorch-fid resizes inside its network."""

    def prepare(pixels: Pixels) -> NDArray[np.float32]:
        image_13HW = torch.from_numpy(as_they_are(pixels))[None]
        resized = F.interpolate(image_13HW, (side, side), mode="bilinear", align_corners=False)[0]
        return np.asarray(resized.numpy(), dtype=np.float32).clip(0, 255)

    return prepare


def square_bicubic(side: int) -> Prepare:
    """The middle square by Pillow's bicubic in 8 bits, as the code of Jayasumana et al. 2024."""

    def prepare(pixels: Pixels) -> NDArray[np.float32]:
        height, width = pixels.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = Image.fromarray(pixels[top : top + edge, left : left + edge])
        return as_they_are(np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)))

    return prepare


def tensorflow_bilinear(images_B3HW: Tensor, side: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: pixel i of the output looks at i * H / S.

    The lower right neighbour of the last pixels is the last pixel itself.
    """
    rows_S, below_S, down_S = _places(images_B3HW.shape[2], side, images_B3HW.device)
    columns_S, right_S, across_S = _places(images_B3HW.shape[3], side, images_B3HW.device)
    upper, lower = images_B3HW[:, :, rows_S], images_B3HW[:, :, below_S]
    upper = upper[..., columns_S].lerp(upper[..., right_S], across_S)
    lower = lower[..., columns_S].lerp(lower[..., right_S], across_S)
    return upper.lerp(lower, down_S[:, None])


def _places(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel: the pixel before it, the one after, and how far between [S]."""
    place_S = torch.arange(side, device=device, dtype=torch.float32) * (length / side)
    before_S = place_S.long().clamp(max=length - 1)
    return before_S, (before_S + 1).clamp(max=length - 1), place_S - before_S
