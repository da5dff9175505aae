"""The Fréchet distance between two Gaussians, exact for singular covariances too, and its error.

Axes: N rows, D features, K the rank of a covariance.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.metrics.features import Entry, Features, Gaussian, entry, present
from mdt_cli.metrics.statistics import Moments

# Chong & Forsyth 2020 fit a line through 15 sizes between a tenth of the samples and all of them.
POINTS = 15
# With twice as many rows as features at the smallest size the line leaves little bias.
ENOUGH_PER_DIMENSION = 20
ROWS = 4096


@dataclass(frozen=True)
class FrechetDistance:
    """The distance and the standard error that drawing other samples would give."""

    value: float
    standard_error: float | None  # None where no rows were given


@dataclass(frozen=True)
class Extrapolated:
    """The distance at infinitely many samples, and how much of it 1 / N adds."""

    value: float
    slope: float
    standard_error: float
    # How well the points lie on the line: a small part of the error, as the sizes share rows.
    fit_error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_distance(mu1_D: Tensor, sigma1_DD: Tensor, mu2_D: Tensor, sigma2_DD: Tensor) -> float:
    """Squared 2-Wasserstein distance of N(mu1, sigma1) and N(mu2, sigma2), in float64.

    The trace of sqrt(sigma1 sigma2) is the sum of the square roots of the eigenvalues of
    sqrt(sigma1) sigma2 sqrt(sigma1) (Dowson & Landau 1982, eq. 16), which are the squared singular
    values of sqrt(sigma1) sqrt(sigma2): taken so, rounding is never put under a square root.
    """
    product = _root(sigma1_DD)[0].T @ _root(sigma2_DD)[0]
    cross = torch.linalg.svdvals(product).sum() if product.numel() else product.new_zeros(())
    return _assembled(mu1_D, sigma1_DD, mu2_D, sigma2_DD, cross)


def frechet_with_error(
    rows_ND: Tensor,
    mu1_D: Tensor,
    sigma1_DD: Tensor,
    mu2_D: Tensor,
    sigma2_DD: Tensor,
    rows_MD: Tensor | None = None,
) -> FrechetDistance:
    """`frechet_distance`, and its error by the infinitesimal jackknife (Jaeckel 1972) over `rows`.

    `mu1, sigma1` are the rows' own; the other side is held fixed, and `rows_MD`, where given, only
    save time when they are few. The distance is a smooth function of mean and covariance: its
    slope along each row's pull on them, squared and averaged over N, is the variance. The slope in
    sigma1 is 1 - T, T the optimal map between the Gaussians (Takatsu 2011). This is the spread, not
    the bias: at few rows the value is too high by much more. Where the rows' own noise makes most
    of the slope, with N at most D or near distance 0, the error is too large.
    """
    root2_DK = _root(sigma2_DD, rows_MD)[0]
    value, pulls_N = _pulls(rows_ND, mu1_D, sigma1_DD, mu2_D, root2_DK, sigma2_DD)
    return FrechetDistance(value, (pulls_N.var(correction=0) / len(rows_ND)).sqrt().item())


def _pulls(
    rows_ND: Tensor,
    mu1_D: Tensor,
    sigma1_DD: Tensor,
    mu2_D: Tensor,
    root2_DK: Tensor,
    sigma2_DD: Tensor,
) -> tuple[float, Tensor]:
    """The distance, and how each row [N] pulls on it, up to a constant."""
    root_DK, values_K, vectors_DK = _root(sigma1_DD, rows_ND)
    product = root_DK.T @ root2_DK
    if not product.numel():
        value = _assembled(mu1_D, sigma1_DD, mu2_D, sigma2_DD, product.new_zeros(()))
        left_DK = root_DK.new_zeros(len(mu1_D), 0)
    else:
        left, singular, _ = torch.linalg.svd(product, full_matrices=False)
        value = _assembled(mu1_D, sigma1_DD, mu2_D, sigma2_DD, singular.sum())
        # T = left_DK left_DK^T: from the singular vectors of sqrt(sigma1) sqrt(sigma2).
        left_DK = (vectors_DK / values_K.sqrt()) @ left * singular.sqrt()
    mean_D, gap_D = mu1_D.double(), mu1_D.double() - mu2_D.double()
    pulls = []
    for part_RD in rows_ND.split(ROWS):
        centred_RD = part_RD.double() - mean_D
        pulls.append(
            2 * centred_RD @ gap_D + (centred_RD**2).sum(1) - ((centred_RD @ left_DK) ** 2).sum(1)
        )
    return value, torch.cat(pulls)


def fewest_for_limit(dimensions: int) -> int:
    """Below, the smallest size has no covariance of full rank, and the line no meaning."""
    return 10 * (dimensions + 1)


def frechet_infinity(
    rows_ND: Tensor, mu2_D: Tensor, sigma2_DD: Tensor, points: int = POINTS
) -> Extrapolated:
    """The distance at N = infinity by a line in 1 / N (Chong & Forsyth 2020, section 4).

    Each size takes the leading rows, which should come in random order. The reference's own bias
    stays. Needs `fewest_for_limit` rows.

    The limit is a sum of the distances with fixed weights, so a row pulls on it with the weights of
    all sizes that hold it times its pull on the full distance. The error consists of this and of
    the scatter about the line, for what is not linear in the rows.
    """
    if len(rows_ND) < fewest_for_limit(rows_ND.shape[1]):
        raise ValueError(
            f"the limit over {rows_ND.shape[1]} features needs "
            f"{fewest_for_limit(rows_ND.shape[1])} rows, got {len(rows_ND)}"
        )
    smallest = len(rows_ND) // 10
    sizes = sorted({round(n) for n in torch.linspace(smallest, len(rows_ND), points).tolist()})
    root2_DK = _root(sigma2_DD)[0]
    moments, distances, begin = Moments(rows_ND.shape[1]), [], 0
    for size in sizes[:-1]:
        moments.add(rows_ND[begin:size])
        begin = size
        mu_D, sigma_DD = moments.finish()
        product = _root(sigma_DD)[0].T @ root2_DK
        cross = torch.linalg.svdvals(product).sum() if product.numel() else product.new_zeros(())
        distances.append(_assembled(mu_D, sigma_DD, mu2_D, sigma2_DD, cross))
    moments.add(rows_ND[begin:])
    whole, pulls_N = _pulls(rows_ND, *moments.finish(), mu2_D, root2_DK, sigma2_DD)
    distances.append(whole)
    x, y = (
        1 / torch.tensor(sizes, dtype=torch.float64),
        torch.tensor(distances, dtype=torch.float64),
    )
    centred = x - x.mean()
    spread = (centred**2).sum()
    slope = (centred * y).sum() / spread
    limit = y.mean() - slope * x.mean()
    residual = ((y - limit - slope * x) ** 2).sum() / (len(sizes) - 2)
    fit_error = (residual * (1 / len(sizes) + x.mean() ** 2 / spread)).sqrt().item()
    weight_N = torch.zeros(len(rows_ND), dtype=torch.float64)
    for size, of_size in zip(sizes, 1 / len(sizes) - x.mean() * centred / spread, strict=True):
        weight_N[:size] += of_size / size
    error = math.hypot(weight_N.norm().item() * pulls_N.std(correction=0).item(), fit_error)
    return Extrapolated(
        limit.item(), slope.item(), error, fit_error, tuple(sizes), tuple(distances)
    )


def _assembled(
    mu1_D: Tensor, sigma1_DD: Tensor, mu2_D: Tensor, sigma2_DD: Tensor, cross: Tensor
) -> float:
    difference_D = mu1_D.double() - mu2_D.double()
    traces = sigma1_DD.double().trace() + sigma2_DD.double().trace()
    return max((difference_D @ difference_D + traces - 2 * cross).item(), 0.0)


def _root(sigma_DD: Tensor, rows_ND: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """[D,K] with root @ root.T = sigma, its eigenvalues [K] and eigenvectors [D,K].

    Directions that hold only rounding are left out. Few rows give the same by themselves, without
    a decomposition of D x D.
    """
    if rows_ND is not None and 4 * len(rows_ND) <= sigma_DD.shape[0]:
        centred_ND = rows_ND.double() - rows_ND.double().mean(0)
        # Left of the rows are their weights, right the directions.
        _, singular, vectors_KD = torch.linalg.svd(centred_ND, full_matrices=False)
        values_D, vectors_DD = singular**2 / (len(rows_ND) - 1), vectors_KD.T
    else:
        sigma_DD = sigma_DD.double()
        values_D, vectors_DD = torch.linalg.eigh((sigma_DD + sigma_DD.T) / 2)
    noise = values_D.abs().max() * len(sigma_DD) * torch.finfo(torch.float64).eps
    kept_D = values_D > noise
    values_K, vectors_DK = values_D[kept_D], vectors_DD[:, kept_D]
    return vectors_DK * values_K.sqrt(), values_K, vectors_DK


def frechet(features: Features) -> dict[str, Entry]:
    """`fid`: the distance between the pooled features of both sides."""
    samples = present(features.samples.pooled, "moments of the samples")
    return {"fid": _entry(samples, present(features.reference.pooled, "moments of the reference"))}


def spatial_frechet(features: Features) -> dict[str, Entry]:
    """`sfid`: the same of the spatial features."""
    found = _entry(
        present(features.samples.spatial, "spatial features of the samples"),
        present(features.reference.spatial, "spatial features of the reference"),
    )
    layer = "first 7 channels of the 17 x 17 map mixed_6/conv, 2,023 features (Nash et al. 2021)"
    return {"sfid": {**found, "rule": layer}}


def frechet_limit(features: Features) -> dict[str, Entry]:
    """`fid_infinity`: the distance extrapolated to infinitely many samples."""
    rows_ND = present(features.samples.rows_ND, "features of the samples")
    theirs = present(features.reference.pooled, "moments of the reference").statistics
    found = frechet_infinity(rows_ND, theirs.mu_D, theirs.sigma_DD)
    rule = "infinitesimal jackknife over the samples, and the scatter about the line"
    enough = ENOUGH_PER_DIMENSION * rows_ND.shape[1]
    bias = (
        "underestimated by more than the interval shows, since there are fewer samples than "
        f"{enough:,}"
    )
    return {
        "fid_infinity": {
            **entry(found.value, found.standard_error, rule, len(rows_ND), theirs.count),
            **({"bias": bias} if len(rows_ND) < enough else {}),
            "rule": f"line in 1 / N through {len(found.sizes)} sizes (Chong & Forsyth 2020); the "
            "bias of the reference stays",
            "slope": found.slope,
            "fit_error": found.fit_error,
            "sizes": list(found.sizes),
            "distances": list(found.distances),
        }
    }


def _entry(ours: Gaussian, theirs: Gaussian) -> Entry:
    one, other = ours.statistics, theirs.statistics
    gaussians = (one.mu_D, one.sigma_DD, other.mu_D, other.sigma_DD)
    error = None
    if ours.rows_ND is None:
        value = frechet_distance(*gaussians)
    else:
        found = frechet_with_error(ours.rows_ND, *gaussians, theirs.rows_ND)
        value, error = found.value, found.standard_error
    rule = (
        "infinitesimal jackknife over the samples, reference held fixed; up to 1.7 times too wide "
        "with no more samples than features or near distance 0"
    )
    count = one.count or 0
    return {
        **entry(value, error, rule, count, other.count),
        "bias": f"too high by a share that falls as 1 / N, here N = {count:,}; compare only with "
        "equal counts. The interval is about the spread, not about this",
    }
