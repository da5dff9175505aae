"""DPM-Solver++ in single steps: its order, and the numbers of the code that U-ViT samples with."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdt_cli.core.levels import (
    Level,
    LevelOptions,
    ddpm_levels,
    edm_levels,
    flow_levels,
    levels_between,
    log_at,
)
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.sampling.dpm_solver import dpm_solver_pp
from mdt_cli.core.sampling.singlestep import (
    Process,
    dpm_solver_singlestep,
    singlestep_orders,
    singlestep_steps,
)
from tests.core.sampling.closed_form import (
    MEAN,
    STD,
    ddpm_gaussian,
    edm_gaussian,
    flow_gaussian,
    gaussian_clean,
    gaussian_end,
    linear_alphas_cumprod,
    order,
)

Ideal = Callable[[Tensor, Tensor], Tensor]
NOISE = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(6))
TABLE = linear_alphas_cumprod()
# Printed by dpm_solver_pp.py of baofff/U-ViT (fast, order 3, predict_x0, eps 1/1000) with the exact
# noise prediction of N(mean, std^2) on its discrete schedule: the end, and the times asked for.
OFFICIAL = json.loads(
    (Path(__file__).parents[2] / "reference" / "official_dpm_solver.json").read_text("utf-8")
)


@pytest.mark.parametrize(
    ("calls", "orders"),
    [
        *((0, []), (1, [1]), (2, [2]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2]), (6, [3, 2, 1])),
        *((7, [3, 3, 1]), (50, [3] * 16 + [2]), (51, [3] * 16 + [2, 1])),
    ],
)
def test_orders_of_steps_are_those_of_dpm_solver_fast(calls: int, orders: list[int]) -> None:
    assert singlestep_orders(calls) == orders
    assert sum(orders) == calls


@pytest.mark.parametrize("process_order", [1, 2, 3])
@pytest.mark.parametrize("straight", [False, True])
def test_steps_of_each_order_converge_with_it_on_gaussian_data(
    process_order: int, straight: bool
) -> None:
    """The published theorem, in float64: even steps in log-SNR, on EDM's and on the flow's path."""
    process, errors = Process(straight), []
    for steps in (32, 64, 128):
        intervals = steps * process_order
        lam = torch.linspace(-4.0, 4.0, intervals + 1, dtype=torch.float64).tolist()
        taus = [1 / (1 + math.exp(x)) if straight else math.exp(-x) for x in lam]
        stops = tuple(Level(tau, 1.0, tau) for tau in taus)
        ideal = flow_gaussian if straight else edm_gaussian

        def ask(y: Tensor, stop: Level, ideal: Ideal = ideal) -> Tensor:
            return ideal(y, torch.full((6,), stop.tau, dtype=torch.float64))

        y = start = NOISE.double() * taus[0]
        for first in range(0, intervals, process_order):
            *_, y = process.step(ask, y, stops[first : first + process_order + 1])
        alphas = [process.signal(stop) for stop in (stops[0], stops[-1])]
        quantile = (start - alphas[0] * MEAN) / math.hypot(alphas[0] * STD, taus[0])
        exact = alphas[1] * MEAN + math.hypot(alphas[1] * STD, taus[-1]) * quantile
        errors.append(float((y - exact).abs().max()))
    assert order(errors) == pytest.approx(process_order, abs=0.15), errors


@pytest.mark.parametrize("kind", ["edm", "flow", "epsilon", "between"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_every_process_ends_at_the_data(kind: str, steps: int) -> None:
    levels, ideal, exact = {
        "edm": (edm_levels(steps), edm_gaussian, gaussian_end(80.0 * NOISE, 1.0, 80.0)),
        "flow": (flow_levels(steps), flow_gaussian, gaussian_end(NOISE, 0.0, 1.0)),
        "epsilon": (ddpm_levels(TABLE, steps), ddpm_gaussian, None),
        "between": (levels_between(TABLE, steps), between_gaussian, None),
    }[kind]
    seen: list[float] = []

    def denoise(x: Tensor, t_B: Tensor) -> Tensor:
        seen.append(float(t_B[0]))
        return ideal(x, t_B)

    states = list(singlestep_steps(denoise, NOISE, levels))
    assert len(seen) == len(states) == steps
    assert seen == [float(torch.tensor(stop.t)) for stop in levels.stops[:-1]]
    assert states[-1].dtype == torch.float64
    if exact is None:
        first = levels.stops[0]
        exact = gaussian_end(NOISE, first.scale, (1 - first.scale**2) ** 0.5)
    if steps == 50:
        assert float((states[-1] - exact).abs().max()) < (0.05 if kind == "between" else 0.02)


def between_gaussian(x: Tensor, t_B: Tensor) -> Tensor:
    abar = log_at(TABLE.log(), t_B.double()).exp().view(-1, 1, 1, 1)
    return gaussian_clean(x, abar.sqrt(), (1 - abar).sqrt())


@pytest.mark.parametrize("steps", [int(count) for count in OFFICIAL["steps"]])
def test_numbers_of_the_official_sampler(steps: int) -> None:
    printed = OFFICIAL["steps"][str(steps)]
    epsilon = Epsilon(betas="scaled_linear", first_time=1, learned_variance=False)
    assert epsilon.chain is not None
    log_T, mean, std = epsilon.chain.alphas_cumprod.log(), OFFICIAL["mean"], OFFICIAL["std"]
    asked: list[float] = []

    def denoise(x: Tensor, t_B: Tensor) -> Tensor:
        asked.append(float(epsilon.network_input(x, t_B)[1][0]))
        log = log_at(log_T, t_B.double()).view(-1, 1, 1, 1)
        alpha, sigma = (log / 2).exp(), (-torch.expm1(log)).sqrt()
        noise = sigma * (x.double() - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        return epsilon.denoised(noise.float(), x, t_B)

    levels = epsilon.levels(LevelOptions(steps, between=True))
    start = torch.tensor(OFFICIAL["start"]).view(-1, 1, 1, 1)
    end = dpm_solver_singlestep(denoise, start, levels).flatten()
    # Official code computes in float32.
    torch.testing.assert_close(
        end, torch.tensor(printed["x"], dtype=torch.float64), rtol=0, atol=3e-6
    )
    torch.testing.assert_close(torch.tensor(asked), torch.tensor(printed["t"]), rtol=0, atol=2e-4)


def test_fifty_calls_are_nearer_to_the_exact_end_than_the_multistep_solver() -> None:
    for steps in (10, 50):
        levels = edm_levels(steps)
        exact = gaussian_end(80.0 * NOISE, 1.0, 80.0)
        single, multi = (
            float((solver(edm_gaussian, NOISE, levels) - exact).abs().max())
            for solver in (dpm_solver_singlestep, dpm_solver_pp)
        )
        assert single < multi


def test_denoised_between_two_times_is_a_straight_line_in_the_logarithm() -> None:
    epsilon = Epsilon(learned_variance=False)
    x, noise = NOISE[:3], NOISE[3:]
    whole = epsilon.denoised(noise, x, torch.tensor([0, 500, 999]))
    same = epsilon.denoised(noise, x, torch.tensor([0.0, 500.0, 999.0]))
    torch.testing.assert_close(same, whole, rtol=2e-5, atol=2e-5)
    middle = epsilon.denoised(noise, x, torch.tensor([0.5, 500.5, 998.5]))
    low, high = TABLE[[0, 500, 998]], TABLE[[1, 501, 999]]
    abar = (low * high).sqrt().view(-1, 1, 1, 1)
    expected = (x.double() - (1 - abar).sqrt() * noise) / abar.sqrt()
    torch.testing.assert_close(middle.double(), expected, rtol=2e-5, atol=2e-5)
    assert epsilon.noise_ratio(500.5) == pytest.approx(float(((1 - abar) / abar).sqrt()[1]))
    assert epsilon.noise_ratio(500.0) == epsilon.noise_ratio(500)
