"""The Fréchet distance between two Gaussians, exact for singular covariances too."""

import torch
from torch import Tensor


def frechet_distance(mu1_D: Tensor, sigma1_DD: Tensor, mu2_D: Tensor, sigma2_DD: Tensor) -> float:
    """Squared 2-Wasserstein distance of N(mu1, sigma1) and N(mu2, sigma2), in float64.

    The trace of sqrt(sigma1 sigma2) is the sum of the square roots of the eigenvalues of
    sqrt(sigma1) sigma2 sqrt(sigma1) (Dowson & Landau 1982, eq. 16), which are the squared singular
    values of sqrt(sigma1) sqrt(sigma2): taken so, rounding is never put under a square root.
    """
    mu1_D, mu2_D = mu1_D.double(), mu2_D.double()
    sigma1_DD, sigma2_DD = sigma1_DD.double(), sigma2_DD.double()
    product = _root(sigma1_DD).T @ _root(sigma2_DD)
    cross = torch.linalg.svdvals(product).sum() if product.numel() else product.new_zeros(())
    difference_D = mu1_D - mu2_D
    distance = difference_D @ difference_D + sigma1_DD.trace() + sigma2_DD.trace() - 2 * cross
    return max(distance.item(), 0.0)


def _root(sigma_DD: Tensor) -> Tensor:
    """[D, rank] with root @ root.T = sigma; directions that hold only rounding are left out."""
    values_D, vectors_DD = torch.linalg.eigh((sigma_DD + sigma_DD.T) / 2)
    noise = values_D.abs().max() * len(values_D) * torch.finfo(torch.float64).eps
    kept_D = values_D > noise
    return vectors_DD[:, kept_D] * values_D[kept_D].sqrt()
