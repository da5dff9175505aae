import math

import numpy as np
import pytest
import torch

from mdt_cli.core.levels import ddpm_levels
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.sampling.ddpm import Chain, clipped, ddim, ddpm
from mdt_cli.core.sampling.ode import euler
from tests.core.sampling.closed_form import (
    MEAN,
    STD,
    ddpm_gaussian,
    finite_set_clean,
    linear_alphas_cumprod,
)
from tests.reference.samplers import ddim_with_clipping, gaussian_posterior

TABLE = linear_alphas_cumprod()
SHAPE = (5, 2, 3, 3)
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def fresh_noise(seed=4):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator)


def silent():
    raise AssertionError("no noise was due")


def test_posterior_equals_bayes_rule():
    chain = Chain(TABLE, 250)
    x, clean = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), -0.3)
    for step in (1, 7, 100, 249):
        mean, log_variance = chain.posterior(step, x, clean, torch.zeros_like(x))
        abar, before = float(TABLE[chain.indices[step]]), float(TABLE[chain.indices[step - 1]])
        expected, variance = gaussian_posterior(float(x), float(clean), abar, before)
        assert float(mean) == pytest.approx(expected, rel=1e-9)
        assert float(log_variance) == pytest.approx(math.log(variance), abs=1e-9)
        beta = 1 - abar / before
        assert float(chain.posterior(step, x, clean, torch.ones_like(x))[1]) == pytest.approx(
            math.log(beta), abs=1e-9
        )
        halfway = chain.posterior(step, x, clean, torch.full_like(x, 0.5))[1]
        assert float(halfway) == pytest.approx(math.log(variance * beta) / 2, abs=1e-9)


def test_the_first_log_variance_borrows_the_second():
    chain = Chain(TABLE, 250)
    assert chain.log_variance[0] == chain.log_variance[1]


def test_ddpm_shows_the_network_the_original_index_and_ends_without_noise():
    seen, drawn = [], []

    def estimate(x, t_B):
        seen.append(t_B)
        return ddpm_gaussian(x, t_B), torch.rand_like(x)

    noises = fresh_noise()

    def step_noise():
        drawn.append(1)
        return noises()

    end = ddpm(estimate, NOISE, Chain(TABLE, 10), step_noise)
    assert [int(t_B[0]) for t_B in seen] == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert all(t_B.shape == (5,) for t_B in seen)
    assert len(drawn) == 9
    assert end.dtype == torch.float64


def test_ddpm_last_step_returns_the_estimate_itself():
    end = ddpm(lambda x, t: (torch.full_like(x, 1.75), None), NOISE, Chain(TABLE, 5), fresh_noise())
    # 1.75 lies outside [-1, 1]: nothing is clipped.
    assert torch.allclose(end, torch.full(SHAPE, 1.75, dtype=torch.float64), atol=1e-12)


def test_ddpm_reaches_the_data_distribution():
    generator = torch.Generator().manual_seed(5)
    shape = (2000, 1, 4, 4)

    def estimate(x, t_B):
        return ddpm_gaussian(x, t_B), None

    noise = torch.randn(shape, generator=generator)
    end = ddpm(estimate, noise, Chain(TABLE, 250), lambda: torch.randn(shape, generator=generator))
    # 32,000 values: four standard errors of the mean are 0.016; 250 steps bias the spread by 1%.
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.016)
    assert float(end.std()) == pytest.approx(STD, abs=0.02)


def test_ddim_eta_0_is_euler_on_the_rescaled_flow():
    ours = ddim(ddpm_gaussian, NOISE, Chain(TABLE, 20), 0.0, silent)
    other = euler(ddpm_gaussian, NOISE, ddpm_levels(TABLE, 20))
    assert float((ours - other).abs().max()) < 1e-6


def test_ddim_eta_1_is_ddpm_with_the_posterior_variance():
    ours = ddim(ddpm_gaussian, NOISE, Chain(TABLE, 20), 1.0, fresh_noise())
    other = ddpm(
        lambda x, t: (ddpm_gaussian(x, t), torch.zeros_like(x)),
        NOISE,
        Chain(TABLE, 20),
        fresh_noise(),
    )
    assert float((ours - other).abs().max()) < 1e-6


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers(eta):
    from diffusers import DDIMScheduler

    chain = Chain(TABLE, 50)
    scheduler = DDIMScheduler(
        trained_betas=np.linspace(1e-4, 2e-2, 1000),
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    # diffusers steps back by a fixed stride, which respacing does not have: its update is asked
    # step by step, with the stride that each of our steps has.
    noises, x = fresh_noise(), NOISE.double()
    for step in reversed(range(50)):
        t = chain.indices[step]
        before = chain.indices[step - 1] if step else -1
        scheduler.config.num_train_timesteps = t - before
        scheduler.num_inference_steps = 1
        clean = ddpm_gaussian(x.float(), torch.full((5,), t))
        extra = noises() if eta and step else torch.zeros(SHAPE)
        x = scheduler.step(clean, t, x, eta=eta, variance_noise=extra).prev_sample
    ours = ddim(ddpm_gaussian, NOISE, chain, eta, fresh_noise() if eta else silent)
    # diffusers keeps its table in float32.
    assert float((ours - x).abs().max()) < 2e-5


def test_ddim_refuses_an_eta_that_leaves_no_variance():
    with pytest.raises(ValueError, match="eta 30"):
        ddim(ddpm_gaussian, NOISE, Chain(TABLE, 20), 30.0, fresh_noise())


def test_one_step_is_the_estimate():
    for end in (
        ddpm(lambda x, t: (torch.full_like(x, 0.2), None), NOISE, Chain(TABLE, 1), silent),
        ddim(lambda x, t: torch.full_like(x, 0.2), NOISE, Chain(TABLE, 1), 1.0, silent),
    ):
        assert torch.allclose(end, torch.full_like(end, 0.2), atol=1e-6)


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 250])
def test_ddim_with_clipping_equals_the_restated_sampler(betas, steps):
    objective = Epsilon(learned_variance=False, betas=betas)
    table = objective.chain.alphas_cumprod

    def named_noise(x, time):
        # No denoiser of anything: clipping then has much to do.
        return 0.8 * x + 0.3 * math.cos(time / 40)

    def denoise(x, t_B):
        abar = table[t_B].view(-1, 1, 1, 1)
        noise = named_noise(x.double(), float(t_B[0]))
        return (x.double() - (1 - abar).sqrt() * noise) / abar.sqrt()

    noises = fresh_noise()
    draws = [noises().double().numpy() for _ in range(steps - 1)]
    expected = ddim_with_clipping(
        named_noise, NOISE.double().numpy(), objective.chain.beta_T.numpy(), steps, draws
    )
    chain = Chain(table, steps, "trailing")
    ours = ddim(denoise, NOISE, chain, 1.0, fresh_noise(), clip=True)
    # The network's float32 input is worth about 1e-6 here.
    assert float((ours - torch.from_numpy(expected)).abs().max()) < 1e-5
    assert float(ours.abs().max()) <= 1
    free = ddim(denoise, NOISE, chain, 1.0, fresh_noise())
    assert float((ours - free).abs().max()) > 0.01, "clipping had nothing to do"


@pytest.mark.parametrize("betas", ["linear", "cosine", "scaled_linear"])
def test_ddim_with_clipping_finds_the_images_of_a_finite_set(betas):
    points = torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64).view(3, 1, 1, 1)
    table = Epsilon(betas=betas).chain.alphas_cumprod

    def denoise(x, t_B):
        abar = table[t_B]
        scale = abar.sqrt().view(-1, 1, 1, 1)
        return finite_set_clean(points, x / scale, ((1 - abar) / abar).sqrt())

    generator = torch.Generator().manual_seed(8)
    shape = (3000, 1, 1, 1)
    start = torch.randn(shape, generator=generator)
    chain = Chain(table, 250, "trailing")
    end = ddim(
        denoise, start, chain, 1.0, lambda: torch.randn(shape, generator=generator), clip=True
    )
    distance, nearest = (end.flatten()[:, None] - points.flatten()).abs().min(1)
    assert float(distance.max()) < 1e-3
    shares = torch.bincount(nearest, minlength=3) / 3000
    # Four standard errors are 0.034; 250 steps of eta 1 lean by less than that again.
    assert float((shares - 1 / 3).abs().max()) < 0.05


def test_ddpm_may_be_clipped_as_well():
    end = ddpm(
        clipped(lambda x, t: (torch.full_like(x, 1.75), None)),
        NOISE,
        Chain(TABLE, 5),
        fresh_noise(),
    )
    assert torch.allclose(end, torch.ones(SHAPE, dtype=torch.float64), atol=1e-12)
