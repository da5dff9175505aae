"""How close an image is to the one it was made from: PSNR and SSIM.

Axes: B images, H W pixels, K a window. Pixels are 0..255.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

PEAK = 255.0
# Wang et al. 2004, section III-C: an 11 x 11 Gaussian window of 1.5 pixels, and both constants.
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(one_B3HW: Tensor, other_B3HW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB, over all channels; infinite for equal images."""
    error_B = ((one_B3HW.double() - other_B3HW.double()) ** 2).flatten(1).mean(1)
    return 10 * torch.log10(PEAK**2 / error_B)


def ssim(one_B3HW: Tensor, other_B3HW: Tensor) -> Tensor:
    """Structural similarity [B] (Wang et al. 2004, eq. 13), the mean over channels and positions.

    Only positions where the window lies entirely in the image count. Needs 11 pixels a side.
    """
    if min(one_B3HW.shape[-2:]) < WINDOW:
        raise ValueError(f"images of {list(one_B3HW.shape[-2:])} are smaller than the window")
    x, y = (image.double().flatten(0, 1)[:, None] for image in (one_B3HW, other_B3HW))
    window = _window().to(x)
    mean_x, mean_y = conv2d(x, window), conv2d(y, window)
    var_x = conv2d(x * x, window) - mean_x**2
    var_y = conv2d(y * y, window) - mean_y**2
    both = conv2d(x * y, window) - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + C1) * (2 * both + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    )
    return likeness.flatten(1).mean(1).reshape(len(one_B3HW), -1).mean(1)


def _window() -> Tensor:
    """The Gaussian [1, 1, K, K], of sum 1."""
    offsets = range(-(WINDOW // 2), WINDOW // 2 + 1)
    weights = [math.exp(-(k**2) / (2 * SIGMA**2)) for k in offsets]
    line = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return torch.outer(line, line)[None, None]
