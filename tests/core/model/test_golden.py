"""Our forward passes against numbers that the official code printed on synthetic weights."""

import pytest
import torch

from mdt_cli.core.model.transformer import Transformer
from tests.golden.cases import T, Y, guided_pair, losses, parameters, synthetic_network
from tests.golden.numbers import CONFIGS, FORWARD, GUIDED, LOSSES, PARAMETERS
from tests.golden.synthetic import latents, subset, values


@pytest.fixture(scope="module")
def networks() -> dict[str, Transformer]:
    return {name: synthetic_network(name) for name in CONFIGS}


def check(output: torch.Tensor, mean: float, std: float, first: tuple, last: float) -> None:
    flat = output.double().flatten()
    seen = [flat.mean(), flat.std(correction=0), *flat[:3], flat[-1]]
    wanted = torch.tensor([mean, std, *first, last], dtype=torch.float64)
    # The printed numbers have five or six digits after the point.
    torch.testing.assert_close(torch.stack(seen), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "keep", "mean", "std", "first", "last"), FORWARD)
@torch.no_grad()
def test_forward(networks, name, keep, mean, std, first, last) -> None:
    output = networks[name](latents(1), T, Y, subset(2, keep) if keep else None)
    check(output, mean, std, first, last)


@pytest.mark.parametrize(("name", "scale", "power", "mean", "std", "first", "last"), GUIDED)
@torch.no_grad()
def test_guided(networks, name, scale, power, mean, std, first, last) -> None:
    output = guided_pair(networks[name], scale, power)
    # Guidance is on three channels: the rest of the first half is the conditional answer.
    plain = networks[name](latents(1), T, Y)
    torch.testing.assert_close(output[:2, 3:], plain[:, 3:], rtol=1e-5, atol=1e-5)
    check(output, mean, std, first, last)


@pytest.mark.parametrize(("name", "keep", "mse", "vb"), LOSSES)
@torch.no_grad()
def test_losses(networks, name, keep, mse, vb) -> None:
    # Half a unit of the last printed digit, or 1e-4.
    wanted = torch.tensor([*mse, *vb])
    got = torch.tensor(losses(networks[name], name, keep))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize(("name", "size", "decoder", "count"), PARAMETERS)
def test_parameter_counts(name: str, size: str, decoder: int, count: int) -> None:
    assert parameters(name, size, decoder) == count


def test_synthetic_values_cover_their_range() -> None:
    filled = values((1000,), 3, 0.25)
    assert filled.min() < -0.12
    assert filled.max() > 0.12
