"""Objectives against their definitions: a perfect answer has no error and gives the image back."""

import math

import pytest
import torch

from mdt_cli.core.batch import Batch
from mdt_cli.core.levels import LevelOptions
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.losses import region_mean
from mdt_cli.core.rng import stream

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
    error = objective.error(output, Batch(CLEAN, t, NOISE), noisy)
    assert error.abs().max() < 1e-3


def test_epsilon_tables() -> None:
    table = Epsilon().chain.alphas_cumprod
    wanted = {0: 0.9999, 1: 0.99978009, 100: 0.89514159, 500: 0.07779666, 999: 4.03583e-5}
    for index, value in wanted.items():
        assert table[index].item() == pytest.approx(value, rel=1e-6)


def test_betas_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    pairs = {
        "linear": DDPMScheduler(beta_start=1e-4, beta_end=2e-2),
        "scaled_linear": DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        "cosine": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    }
    for kind, scheduler in pairs.items():
        ours = Epsilon(betas=kind)
        # diffusers keeps float32.
        torch.testing.assert_close(ours.chain.beta_T.float(), scheduler.betas, rtol=2e-5, atol=1e-8)
        torch.testing.assert_close(
            ours.chain.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7
        )


def test_betas_at_their_ends() -> None:
    roots = Epsilon(betas="scaled_linear").chain.beta_T.sqrt()
    assert roots[0].square().item() == pytest.approx(0.00085, rel=1e-12)
    assert roots[-1].square().item() == pytest.approx(0.012, rel=1e-12)
    assert roots.diff().std().item() < 1e-15
    cosine = Epsilon(betas="cosine")
    assert cosine.chain.beta_T[-1].item() == 0.999
    # But for the last, which is cut, the products are the closed form (eq. 17).
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for index in (0, 400, 998):
        share = ((index + 1) / 1000 + 0.008) / 1.008
        wanted = math.cos(share * math.pi / 2) ** 2 / start
        assert cosine.chain.alphas_cumprod[index].item() == pytest.approx(wanted, rel=1e-9)
    for kind in ("linear", "scaled_linear", "cosine"):
        # As much noise in the end over ten times fewer steps, each below 1.
        short = Epsilon(num_timesteps=100, betas=kind)
        assert short.chain.beta_T.max() < 1
        assert short.chain.alphas_cumprod[49].item() == pytest.approx(
            Epsilon(betas=kind).chain.alphas_cumprod[499].item(), rel=0.08
        )
    with pytest.raises(ValueError, match="no such betas: square"):
        Epsilon(betas="square")


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_tables_are_numbers_even_where_networks_have_none(kind: str) -> None:
    with torch.device("meta"):
        objective = Epsilon(betas=kind)
    assert torch.equal(objective.chain.alphas_cumprod, Epsilon(betas=kind).chain.alphas_cumprod)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_every_table_follows_the_betas(kind: str) -> None:
    objective = Epsilon(learned_variance=False, min_snr_gamma=5.0, betas=kind)
    assert objective.out_multiplier == 1
    t = torch.tensor([1, 400, 900])
    noisy = objective.add_noise(CLEAN, NOISE, t)
    abar = (1 - objective.chain.beta_T).cumprod(0)[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        noisy, (abar.sqrt() * CLEAN + (1 - abar).sqrt() * NOISE).float(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(objective.denoised(NOISE, noisy, t), CLEAN, atol=2e-5, rtol=1e-4)
    snr = (abar / (1 - abar)).flatten()
    error = objective.error(NOISE + 1, Batch(CLEAN, t, NOISE), noisy).mean((1, 2, 3))
    torch.testing.assert_close(error.double(), snr.clamp(max=5) / snr, rtol=1e-5, atol=0)


def test_times_may_be_counted_from_1() -> None:
    t = torch.tensor([0, 999])
    assert Epsilon().network_input(CLEAN[:2], t)[1].tolist() == [0, 999]
    late = Epsilon(first_time=1)
    assert late.network_input(CLEAN[:2], t)[1].tolist() == [1, 1000]
    # Only what the network reads: the noise of an index is the same.
    same = late.add_noise(CLEAN[:2], NOISE[:2], t) - Epsilon().add_noise(CLEAN[:2], NOISE[:2], t)
    assert same.abs().max() == 0


def test_min_snr_weights() -> None:
    objective, times = Epsilon(min_snr_gamma=5.0), torch.arange(1000)
    weight = objective._weight.at(times, NOISE.double()).flatten()
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
    zero = objective.error(torch.zeros_like(raw), Batch(CLEAN, sigma, NOISE), noisy)
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
    assert objective.error(output, Batch(CLEAN, t, NOISE), noisy).max() == 0


def test_flow_that_predicts_the_image_has_the_error_of_its_velocity() -> None:
    """|v - v_hat|^2 with v = (x_t - x) / max(t, floor) (Li & He 2025, eq. of x-prediction)."""
    objective = Flow(predict="x", noise_scale=2.0)
    t, guess = torch.tensor([0.01, 0.5, 0.9]), CLEAN + 0.3 * NOISE.flip(0)
    batch, noisy = Batch(CLEAN, t, NOISE), objective.add_noise(CLEAN, NOISE, t)
    share = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, (1 - share) * CLEAN + share * 2 * NOISE)
    velocity = [(noisy - x) / share.clamp(min=0.05) for x in (CLEAN, guess)]
    wanted = (velocity[0] - velocity[1]).square()
    torch.testing.assert_close(objective.error(guess, batch, noisy), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(objective.denoised(guess, noisy, t), guess)
    # Above the floor that is the velocity of the path itself.
    path = (2 * NOISE - CLEAN)[1:]
    torch.testing.assert_close(velocity[0][1:], path, rtol=1e-4, atol=1e-4)


def test_flow_times_are_shifted_alike_in_training_and_sampling() -> None:
    plain, moved = Flow(None), Flow(None, shift=3.0)
    t = plain.sample_time(1000, stream("shift"))
    wanted = 3 * t / (1 + 2 * t)
    assert torch.equal(moved.sample_time(1000, stream("shift")), wanted)
    torch.testing.assert_close(moved.quantile_time(torch.tensor([0.5])), torch.tensor([0.75]))
    stops = plain.levels(LevelOptions(4, shift=3.0)).stops
    assert [stop.t for stop in stops] == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    # Esser et al. 2024: as if there were nine times as many pixels; the noise ratio triples.
    assert stops[1].t / (1 - stops[1].t) == pytest.approx(3 * 0.75 / 0.25)


def test_flow_starts_from_noise_of_its_scale() -> None:
    objective = Flow(noise_scale=2.0)
    assert objective.levels(LevelOptions(4)).start == 2
    assert objective.noise_ratio(0.5) == 2
    noisy = objective.add_noise(CLEAN, NOISE, torch.ones(3))
    torch.testing.assert_close(noisy, 2 * NOISE)
    output = 2 * NOISE - CLEAN
    assert objective.error(output, Batch(CLEAN, torch.ones(3), NOISE), noisy).max() == 0


FLOWS = [Flow(), Flow(None), Flow((-0.8, 0.8), "x", shift=2.0)]


@pytest.mark.parametrize("objective", [Epsilon(), Edm(), *FLOWS], ids=lambda o: o.kind)
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
