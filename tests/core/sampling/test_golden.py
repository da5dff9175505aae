"""One step of ancestral sampling against numbers that the official code printed."""

import pytest
import torch

from mdt_cli.config.run import RunConfig
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.sampling.sde import Chain
from mdt_cli.services.build import build_network
from tests.golden.synthetic import fill_synthetically, latents

S = {"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 2}
# mean, std, first three values, last
MEAN = (-0.016889, 1.195512, -2.04204, 0.58448, -1.08151, -0.95387)
LOG_VARIANCE = (-3.003801, 0.446635, -3.46240, -3.44551, -3.46229, -2.55723)


def seen(values):
    flat = values.flatten()
    return [float(v) for v in (flat.mean(), flat.std(correction=0), *flat[:3], flat[-1])]


@torch.no_grad()
def test_posterior_of_dit_small_in_250_steps():
    objective = Epsilon()
    chain = Chain(objective.alphas_cumprod, 250)
    network = build_network(RunConfig.model_validate({"model": S}), (4, 32, 32), 1000).eval()
    fill_synthetically(network)
    found = []
    for x, step, label in zip(latents(1).split(1), (100, 249), (3, 7), strict=True):
        t_B = torch.tensor([chain.indices[step]])
        output = network(x, t_B, torch.tensor([label]))
        clean, fraction = objective.denoised(output, x, t_B), objective.variance_fraction(output)
        found.append(chain.posterior(step, x, clean, fraction))
    assert [chain.indices[step] for step in (100, 249)] == [401, 999]
    mean, log_variance = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert seen(mean) == pytest.approx(MEAN, abs=1e-4)
    assert seen(log_variance) == pytest.approx(LOG_VARIANCE, abs=1e-4)
