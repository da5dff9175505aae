"""Objectives against their definitions: a perfect answer has no error and gives the image back."""

import math

import pytest
import torch

from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.losses import region_mean
from mdt_cli.core.rng import stream
from mdt_cli.core.tokens import TokenSubset

CLEAN, NOISE = torch.randn(2, 3, 4, 4, 4, generator=stream("images")).unbind(0)


def perfect_epsilon(objective: Epsilon, t: torch.Tensor) -> torch.Tensor:
    # Fraction 0 is the posterior's own variance: v = -1.
    return torch.cat([NOISE, -torch.ones_like(NOISE)], 1)


def test_epsilon_perfect_answer() -> None:
    objective = Epsilon()
    t = torch.tensor([1, 400, 999])
    noisy = objective.add_noise(CLEAN, NOISE, t)
    output = perfect_epsilon(objective, t)
    torch.testing.assert_close(objective.denoised(output, noisy, t), CLEAN, atol=2e-4, rtol=1e-4)
    error = objective.error(output, CLEAN, NOISE, noisy, t)
    assert error.abs().max() < 1e-3


def test_epsilon_tables() -> None:
    table = Epsilon().alphas_cumprod
    wanted = {0: 0.9999, 1: 0.99978009, 100: 0.89514159, 500: 0.07779666, 999: 4.03583e-5}
    for index, value in wanted.items():
        assert table[index].item() == pytest.approx(value, rel=1e-6)


def test_min_snr_weights() -> None:
    weight = Epsilon(min_snr_gamma=5.0)._weight
    for index, value in {0: 5.0e-4, 10: 0.01099, 50: 0.15490, 100: 0.58571, 130: 1, 900: 1}.items():
        assert weight[index].item() == pytest.approx(value, rel=1e-3)
    assert weight.mean().item() == pytest.approx(0.91307, abs=5e-6)


def test_variance_term_gives_the_mean_no_gradient() -> None:
    objective = Epsilon()
    t = torch.tensor([0, 60, 900])
    noisy = objective.add_noise(CLEAN, NOISE, t)
    output = torch.randn(3, 8, 4, 4, generator=stream("o")).requires_grad_()
    objective.variational_bound(output, CLEAN, noisy, t).sum().backward()
    gradient = output.grad
    assert gradient is not None
    assert gradient[:, :4].abs().max() == 0
    assert gradient[:, 4:].abs().max() > 0


def test_edm_perfect_answer_and_weight() -> None:
    objective = Edm()
    sigma = torch.tensor([0.01, 0.5, 20.0])
    noisy = objective.add_noise(CLEAN, NOISE, sigma)
    s = sigma.view(-1, 1, 1, 1)
    total = s**2 + 0.25
    raw = (CLEAN - 0.25 / total * noisy) / (s * 0.5 / total.sqrt())
    torch.testing.assert_close(objective.denoised(raw, noisy, sigma), CLEAN, atol=1e-4, rtol=1e-4)
    zero = objective.error(torch.zeros_like(raw), CLEAN, NOISE, noisy, sigma)
    # The published weight is 8 at sigma 0.5.
    skip = 0.25 / total * noisy
    torch.testing.assert_close(zero[1], 8 * (skip - CLEAN)[1].square())


def test_edm_times_are_log_normal() -> None:
    t = Edm().sample_time(50_000, stream("t")).log()
    assert t.mean().item() == pytest.approx(-1.2, abs=4 * 1.2 / math.sqrt(50_000))
    assert t.std().item() == pytest.approx(1.2, rel=0.02)


def test_flow_perfect_answer() -> None:
    objective = Flow()
    t = torch.tensor([0.1, 0.5, 0.9])
    noisy = objective.add_noise(CLEAN, NOISE, t)
    output = NOISE - CLEAN
    torch.testing.assert_close(objective.denoised(output, noisy, t), CLEAN, atol=1e-5, rtol=1e-5)
    assert objective.error(output, CLEAN, NOISE, noisy, t).max() == 0


@pytest.mark.parametrize("objective", [Epsilon(), Edm(), Flow(), Flow(None)], ids=lambda o: o.kind)
def test_quantiles_are_those_of_the_training_times(objective) -> None:
    drawn = objective.sample_time(40_000, stream("q")).double().sort().values
    shares = torch.tensor([0.1, 0.5, 0.9])
    wanted = drawn[(shares * len(drawn)).long()]
    got = objective.quantile_time(shares).double()
    torch.testing.assert_close(got, wanted, rtol=0.06, atol=0.02)


def test_regions() -> None:
    error = torch.arange(16.0).view(1, 1, 4, 4)
    subset = TokenSubset(torch.tensor([[0, 3]]), 4)
    # Patches of 2 x 2: means 2.5, 4.5, 10.5, 12.5.
    assert region_mean(error, "all", subset, 2).item() == 7.5
    assert region_mean(error, "kept", subset, 2).item() == 7.5
    assert region_mean(error, "dropped", subset, 2).item() == 7.5
    subset = TokenSubset(torch.tensor([[0]]), 4)
    assert region_mean(error, "kept", subset, 2).item() == 2.5
    assert region_mean(error, "dropped", subset, 2).item() == pytest.approx(27.5 / 3)
    everything = TokenSubset(torch.arange(4)[None], 4)
    assert region_mean(error, "dropped", everything, 2).item() == 0
