import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mdt_cli.metrics.psnr_ssim import psnr, ssim
from tests.pictures import array


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def brute_force_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 per channel with scipy's Gaussian of radius 5, borders cut."""
    found = []
    for c in range(3):
        a, b = x[..., c].astype(np.float64), y[..., c].astype(np.float64)

        def smooth(z: np.ndarray) -> np.ndarray:
            return gaussian_filter(z, 1.5, truncate=3.5)[5:-5, 5:-5]

        ma, mb = smooth(a), smooth(b)
        va, vb, ab = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
        c1, c2 = 6.5025, 58.5225
        top = (2 * ma * mb + c1) * (2 * ab + c2)
        found.append((top / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
    return float(np.mean(found))


def test_ssim_is_the_published_formula() -> None:
    ramp = np.add.outer(np.arange(24), np.arange(20) * 3).astype(np.uint8)
    smooth = np.stack([ramp, ramp + 40, 200 - ramp], 2)
    noisy = np.clip(smooth + np.random.default_rng(0).normal(0, 12, smooth.shape), 0, 255)
    pairs = [(array(0, 20, 24), array(1, 20, 24)), (smooth, noisy.astype(np.uint8))]
    found = ssim(batch(*(p[0] for p in pairs)), batch(*(p[1] for p in pairs)))
    for value, pair in zip(found.tolist(), pairs, strict=True):
        assert value == pytest.approx(brute_force_ssim(*pair), abs=1e-6)
    assert found[1] > 2 * found[0]
    assert ssim(batch(smooth), batch(smooth)).item() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(batch(array(0, 10, 30)), batch(array(1, 10, 30)))


def test_psnr_of_known_errors() -> None:
    dark = np.zeros((4, 4, 3), np.uint8)
    found = psnr(batch(dark, dark, dark), batch(dark + 1, dark + 255, dark))
    assert found[0].item() == pytest.approx(20 * math.log10(255))
    assert found[1].item() == pytest.approx(0, abs=1e-12)
    assert math.isinf(found[2].item())
