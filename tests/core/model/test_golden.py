"""Our forward passes against numbers that the official code printed on synthetic weights."""

import pytest
import torch

from mdt_cli.config.run import RunConfig
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.step import View, ViewDraw, view_loss
from mdt_cli.core.sampling.guidance import constant, guided, power_cosine
from mdt_cli.services.build import build_network
from tests.golden.numbers import CONFIGS, FORWARD, GUIDED, LOSSES, PARAMETERS, SIZES
from tests.golden.synthetic import fill_synthetically, latents, subset, values


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    built = {}
    for name, tables in CONFIGS.items():
        network = build_network(RunConfig.model_validate(tables), (4, 32, 32), 1000).eval()
        fill_synthetically(network)
        built[name] = network
    return built


def check(output: torch.Tensor, mean: float, std: float, first: tuple, last: float) -> None:
    flat = output.double().flatten()
    seen = [flat.mean(), flat.std(correction=0), *flat[:3], flat[-1]]
    wanted = torch.tensor([mean, std, *first, last], dtype=torch.float64)
    # The printed numbers have five or six digits after the point.
    torch.testing.assert_close(torch.stack(seen), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "keep", "mean", "std", "first", "last"), FORWARD)
@torch.no_grad()
def test_forward(networks, name, keep, mean, std, first, last) -> None:
    output = networks[name](
        latents(1),
        torch.tensor([10, 900]),
        torch.tensor([3, 7]),
        subset(2, keep) if keep else None,
    )
    check(output, mean, std, first, last)


@pytest.mark.parametrize(("name", "scale", "power", "mean", "std", "first", "last"), GUIDED)
@torch.no_grad()
def test_guided(networks, name, scale, power, mean, std, first, last) -> None:
    def branch(label: int):
        return lambda x, t: networks[name](x, t, torch.tensor([label]))

    at = constant(scale) if power is None else power_cosine(scale, power, lambda t: t / 1000)
    halves = ([], [])
    # The scale is a function of one time; official code takes each sample's own.
    for x, time, label in zip(latents(1).split(1), (10, 900), (3, 7), strict=True):
        t = torch.tensor([time])
        merged = guided(branch(label), branch(1000), at, "first3")(x, t)
        torch.testing.assert_close(merged[:, 3:], branch(label)(x, t)[:, 3:])
        halves[0].append(merged)
        # Official code returns both halves: guided channels are shared, the rest is each half's.
        halves[1].append(torch.cat([merged[:, :3], branch(1000)(x, t)[:, 3:]], 1))
    check(torch.cat(halves[0] + halves[1]), mean, std, first, last)


@pytest.mark.parametrize(("name", "keep", "mse", "vb"), LOSSES)
@torch.no_grad()
def test_losses(networks, name, keep, mse, vb) -> None:
    objective = Epsilon(min_snr_gamma=5.0 if name == "mdtv2" else None)
    clean, noise = latents(2, 3), latents(3, 3)
    t, y = torch.tensor([0, 60, 900]), torch.tensor([3, 7, 999])
    draw = ViewDraw(noise, y, subset(3, keep) if keep else None)
    total = view_loss(networks[name], objective, View("kept", "all", 1.0), draw, clean, t, 2)
    noisy = objective.add_noise(clean, noise, t)
    output = networks[name](noisy, t, y, draw.subset)
    bound = objective.variational_bound(output, clean, noisy, t).flatten(1).mean(1)
    # Half a unit of the last printed digit, or 1e-4.
    torch.testing.assert_close(bound, torch.tensor(vb), rtol=1e-4, atol=5e-6)
    torch.testing.assert_close(total - bound, torch.tensor(mse), rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize(("name", "size", "decoder", "count"), PARAMETERS)
def test_parameter_counts(name: str, size: str, decoder: int, count: int) -> None:
    tables = {key: dict(table) for key, table in CONFIGS[name].items()}
    hidden_size, depth, num_heads = SIZES[size]
    tables["model"] |= {"hidden_size": hidden_size, "depth": depth, "num_heads": num_heads}
    tables["model"]["decoder_depth"] = decoder
    if "masking" in tables:
        tables["masking"]["restore_at"] = -decoder
    with torch.device("meta"):
        network = build_network(RunConfig.model_validate(tables), (4, 32, 32), 1000)
    ours = sum(p.numel() for p in network.parameters())
    # Official counts include the fixed position table, which is a frozen parameter there.
    if tables["model"].get("positions") != "learned":
        ours += network.positions_ND.numel()
    assert ours == count


def test_synthetic_values_cover_their_range() -> None:
    filled = values((1000,), 3, 0.25)
    assert filled.min() < -0.12
    assert filled.max() > 0.12
