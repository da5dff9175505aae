"""The metrics once more, as slowly and as plainly as their definitions."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Rows = NDArray[np.float64]


def frechet_by_sqrtm(x: Rows, y: Rows) -> float:
    """The distance of two sets of rows through scipy's matrix square root (full rank only)."""
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = linalg.sqrtm(s @ t)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * np.trace(cross).real)


def frechet_by_nuclear_norm(x: Rows, y: Rows) -> float:
    """The same from centred rows alone, exact for any rank: no covariance is ever rooted."""
    gap = x.mean(0) - y.mean(0)
    a = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(0)) / np.sqrt(len(y) - 1)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(gap @ gap + (a**2).sum() + (b**2).sum() - 2 * cross)


def kernel_distance(x: Rows, y: Rows) -> float:
    """Unbiased squared MMD, pair by pair."""

    def k(a: Rows, b: Rows) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def jackknife(x: Rows, y: Rows) -> float:
    """Standard error of `kernel_distance` by really leaving out each row in turn."""
    without_x = [kernel_distance(np.delete(x, i, 0), y) for i in range(len(x))]
    without_y = [kernel_distance(x, np.delete(y, j, 0)) for j in range(len(y))]
    parts = [(len(w) - 1) * np.var(w) for w in (without_x, without_y)]
    return float(np.sqrt(sum(parts)))


def share_inside(points: Rows, centres: Rows, k: int) -> float:
    """Share of points within the k-NN ball of some centre, distance by distance."""

    def distance(a: Rows, b: Rows) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    radii = [
        sorted(distance(c, other) for j, other in enumerate(centres) if j != i)[k - 1]
        for i, c in enumerate(centres)
    ]
    inside = [any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
    return float(np.mean(inside))


def balls_around(points: Rows, centres: Rows, k: int) -> NDArray[np.bool_]:
    """[points, centres]: which points lie in which centre's k-NN ball."""
    answer = np.zeros((len(points), len(centres)), bool)
    for j, centre in enumerate(centres):
        others = sorted(np.linalg.norm(centre - other) for i, other in enumerate(centres) if i != j)
        for i, point in enumerate(points):
            answer[i, j] = np.linalg.norm(point - centre) <= others[k - 1]
    return answer


def clip_distance(x: Rows, y: Rows) -> float:
    """1,000 times the squared MMD with a Gaussian of width 10, all pairs, own ones included."""

    def mean(a: Rows, b: Rows) -> float:
        return float(np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in b] for p in a]))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def inception_score(probabilities: Rows) -> float:
    """exp of the mean KL divergence of each row from the mean row."""
    mean = probabilities.mean(0)
    divergences = [(p * (np.log(p) - np.log(mean))).sum() for p in probabilities]
    return float(np.exp(np.mean(divergences)))


def cubic(x: Rows, a: float) -> Rows:
    """The kernel of cubic convolution (Keys 1981, eq. 8 for a = -1/2)."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    return np.where(x < 1, near, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0.0))


def antialiased_cubic(length: int, size: int) -> Rows:
    """[size, length]: the kernel as wide as the shrinking; weights outside go to those inside."""
    scale = length / size
    centre = (np.arange(size)[:, None] + 0.5) * scale
    weights = cubic((np.arange(length) + 0.5 - centre) / max(scale, 1), -0.5)
    return weights / weights.sum(1, keepdims=True)


def plain_cubic(length: int, size: int, scale: float) -> Rows:
    """[size, length]: four neighbours at (i + 1/2) / scale - 1/2, the border repeated."""
    weights = np.zeros((size, length))
    for i in range(size):
        place = (i + 0.5) / scale - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[i, min(max(k, 0), length - 1)] += cubic(np.array(place - k), -0.75)
    return weights
