import pytest
import torch

from mdt_cli.core.levels import ddpm_levels, edm_levels, flow_levels
from mdt_cli.core.sampling.ode import euler, heun
from tests.core.sampling.closed_form import (
    STD,
    ddpm_gaussian,
    edm_gaussian,
    finite_set_clean,
    flow_gaussian,
    gaussian_end,
    linear_alphas_cumprod,
    order,
)

NOISE = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1))


def edm_errors(solver, counts):
    exact = gaussian_end(80.0 * NOISE, 1.0, 80.0)
    # A small last sigma: the last step is Euler's and its error is of that size, squared.
    return [
        float((solver(edm_gaussian, NOISE, edm_levels(n, 1e-4)) - exact).abs().max())
        for n in counts
    ]


def flow_errors(solver, counts):
    exact = gaussian_end(NOISE, 0.0, 1.0)
    return [
        float((solver(flow_gaussian, NOISE, flow_levels(n)) - exact).abs().max()) for n in counts
    ]


@pytest.mark.parametrize(
    ("solver", "expected", "counts"),
    [(euler, 1.0, (100, 200, 400)), (heun, 2.0, (40, 80, 160))],
)
@pytest.mark.parametrize("errors", [edm_errors, flow_errors])
def test_order_of_convergence_on_gaussian_data(solver, expected, counts, errors):
    found = errors(solver, counts)
    assert order(found) == pytest.approx(expected, abs=0.15), found
    assert found[-1] < 0.02


def test_heun_40_steps_ask_the_network_79_times():
    calls = []

    def denoise(x, t_B):
        calls.append(t_B)
        return edm_gaussian(x, t_B)

    end = heun(denoise, NOISE, edm_levels(40))
    assert len(calls) == 79
    assert all(t_B.shape == (6,) for t_B in calls)
    assert end.dtype == torch.float64
    # The residual is Heun's own at 40 steps; 80 steps leave a quarter of it.
    assert float((end - gaussian_end(80.0 * NOISE, 1.0, 80.0)).abs().max()) < 0.03


def test_the_network_reads_float32_and_the_state_is_float64():
    seen = []

    def denoise(x, t_B):
        seen.append((x.dtype, t_B.dtype))
        return torch.zeros_like(x)

    assert euler(denoise, NOISE, edm_levels(3)).dtype == torch.float64
    assert set(seen) == {(torch.float32, torch.float32)}


def test_ddpm_levels_solve_the_same_flow():
    levels = ddpm_levels(linear_alphas_cumprod(), 1000)
    first = levels.stops[0]
    exact = gaussian_end(NOISE, first.scale, (1 - first.scale**2) ** 0.5)
    coarse, fine = (
        float(
            (euler(ddpm_gaussian, NOISE, ddpm_levels(linear_alphas_cumprod(), n)) - exact)
            .abs()
            .max()
        )
        for n in (125, 1000)
    )
    assert fine < coarse / 5
    assert fine < 0.01 * STD
    assert float((heun(ddpm_gaussian, NOISE, levels) - exact).abs().max()) < fine / 3


@pytest.mark.parametrize("solver", [euler, heun])
def test_a_finite_set_comes_back_in_equal_shares(solver):
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(4, 1, 2, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(2000, 1, 2, 2, generator=generator)
    end = solver(lambda x, t: finite_set_clean(points, x, t), noise, edm_levels(40))
    distance = (end[:, None] - points[None]).square().flatten(2).sum(2).sqrt()
    nearest, which = distance.min(1)
    assert float((nearest < 1e-2).double().mean()) > 0.99
    # Each point should get 500; four standard deviations of a binomial are 78.
    counts = torch.bincount(which, minlength=4)
    assert (counts - 500).abs().max() < 78, counts
