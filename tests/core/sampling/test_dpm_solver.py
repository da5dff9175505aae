import numpy as np
import pytest
import torch

from mdt_cli.core.levels import ddpm_levels, edm_levels, flow_levels
from mdt_cli.core.sampling.dpm_solver import dpm_solver_pp
from tests.core.sampling.closed_form import (
    ddpm_gaussian,
    edm_gaussian,
    flow_gaussian,
    gaussian_end,
    linear_alphas_cumprod,
    order,
)
from tests.reference.samplers import dpm_solver_pp_2m

NOISE = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(6))
TABLE = linear_alphas_cumprod()


def test_edm_converges_with_order_2():
    exact = gaussian_end(80.0 * NOISE, 1.0, 80.0)
    errors = [
        float((dpm_solver_pp(edm_gaussian, NOISE, edm_levels(n, 1e-3)) - exact).abs().max())
        for n in (40, 80, 160)
    ]
    assert order(errors) == pytest.approx(2.0, abs=0.15), errors
    assert errors[-1] < 2e-3


def test_flow_converges_with_order_2():
    exact = gaussian_end(NOISE, 0.0, 1.0)
    errors = [
        float((dpm_solver_pp(flow_gaussian, NOISE, flow_levels(n)) - exact).abs().max())
        for n in (80, 160, 320)
    ]
    # h^2 log(1/h): the last steps are long in log-SNR, where the method is of second order.
    assert order(errors) == pytest.approx(1.85, abs=0.15), errors
    assert errors[-1] < 2e-4


def test_epsilon_converges_with_order_2():
    errors = []
    for steps in (40, 80, 160):
        levels = ddpm_levels(TABLE, steps)
        first = levels.stops[0]
        exact = gaussian_end(NOISE, first.scale, (1 - first.scale**2) ** 0.5)
        errors.append(float((dpm_solver_pp(ddpm_gaussian, NOISE, levels) - exact).abs().max()))
    assert order(errors) == pytest.approx(2.0, abs=0.15), errors


@pytest.mark.parametrize("kind", ["edm", "flow", "epsilon"])
@pytest.mark.parametrize("steps", [4, 20])
def test_equals_the_restated_algorithm(kind, steps):
    levels = {
        "edm": edm_levels(steps),
        "flow": flow_levels(steps),
        "epsilon": ddpm_levels(TABLE, steps),
    }[kind]
    ideal = {"edm": edm_gaussian, "flow": flow_gaussian, "epsilon": ddpm_gaussian}[kind]
    # alpha and sigma of the process itself.
    if kind == "flow":
        alphas = [1 - stop.t for stop in levels.stops]
        sigmas = [float(stop.t) for stop in levels.stops]
    else:
        alphas = [stop.scale for stop in levels.stops]
        sigmas = [stop.scale * stop.tau for stop in levels.stops]

    def clean_at(x, index):
        t_B = torch.full((6,), levels.stops[index].t)
        return ideal(torch.from_numpy(x).float(), t_B).double().numpy()

    start = NOISE.double().numpy() * levels.start * alphas[0]
    if kind == "flow":
        start = NOISE.double().numpy()
    expected = dpm_solver_pp_2m(clean_at, np.array(start), alphas, sigmas)
    ours = dpm_solver_pp(ideal, NOISE, levels).numpy()
    assert np.abs(ours - expected).max() < 2e-5


@pytest.mark.parametrize("kind", ["edm", "flow", "epsilon"])
@pytest.mark.parametrize("steps", [4, 20])
def test_equals_the_solver_of_diffusers(kind, steps):
    from diffusers import DPMSolverMultistepScheduler

    levels, ideal = {
        "edm": (edm_levels(steps), edm_gaussian),
        "flow": (flow_levels(steps), flow_gaussian),
        "epsilon": (ddpm_levels(TABLE, steps), ddpm_gaussian),
    }[kind]
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        use_flow_sigmas=levels.straight,
    )
    scheduler.set_timesteps(steps)
    # Its own levels come from a float32 table, and start short of t = 1 for flow.
    scheduler.sigmas = torch.tensor([stop.tau for stop in levels.stops], dtype=torch.float64)
    scheduler.set_begin_index(0)

    def signal(level):
        # Its state is signal (clean + tau noise).
        return 1.0 if levels.straight else float((1 + level.tau**2) ** -0.5)

    x = (NOISE.double() * levels.start * signal(levels.stops[0])).float()
    for index, level in enumerate(levels.stops[:-1]):
        clean = ideal(x * (level.scale / signal(level)), torch.full((6,), level.t)).float()
        (x,) = scheduler.step(clean, scheduler.timesteps[index], x, return_dict=False)
    ours = dpm_solver_pp(ideal, NOISE, levels)
    # Its state is float32, ours float64.
    assert float((ours - x.double()).abs().max()) < 2e-5


def test_network_calls_and_times():
    seen = []

    def denoise(x, t_B):
        seen.append(t_B)
        return ddpm_gaussian(x, t_B)

    dpm_solver_pp(denoise, NOISE, ddpm_levels(TABLE, 10))
    assert [int(t_B[0]) for t_B in seen] == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


def test_more_steps_than_diffusers_has_times():
    assert dpm_solver_pp(flow_gaussian, NOISE, flow_levels(1500)).isfinite().all()


def test_one_step_is_the_estimate():
    end = dpm_solver_pp(lambda x, t: torch.full_like(x, 0.2), NOISE, edm_levels(1))
    assert torch.allclose(end, torch.full_like(end, 0.2), atol=1e-6)
