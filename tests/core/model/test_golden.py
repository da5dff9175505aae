"""Our forward passes against numbers that the official code printed on synthetic weights."""

import pytest
import torch

from mdt_cli.config.run import RunConfig
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.step import View, ViewDraw, view_loss
from mdt_cli.core.sampling.guidance import constant, guided, power_cosine
from mdt_cli.services.build import build_network
from tests.golden.synthetic import fill_synthetically, latents, subset, values

S = {"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 2}
MDT = {**S, "positions": "learned", "relative_bias": True}
MASKED = [{"tokens": "all"}, {"tokens": "kept"}]
CONFIGS = {
    "dit": {"model": S},
    "mdt": {
        "model": {**MDT, "decoder_depth": 2},
        "masking": {"views": MASKED, "fill": "interpolator", "restore_at": -2},
    },
    "mdtv2": {
        "model": {**MDT, "decoder_depth": 6, "long_skips": True, "input_skip": True},
        "masking": {"views": MASKED, "fill": "interpolator", "restore_at": -6},
        "objective": {"kind": "epsilon", "weighting": "min_snr"},
    },
}
# name, kept tokens (0: all), mean, std, first three, last
FORWARD = [
    ("dit", 0, 0.162113, 2.217339, (0.12738, -2.74594, 0.10760), 2.49693),
    ("mdt", 0, 0.162423, 2.213290, (0.10829, -2.72201, 0.08885), 2.49976),
    ("mdt", 179, 0.155231, 2.221777, (0.11063, -2.72441, 0.08583), 2.43792),
    ("mdtv2", 0, 0.057545, 2.033165, (0.87812, -2.40585, 0.86470), 2.42114),
    ("mdtv2", 153, 0.055526, 2.029643, (0.91628, -2.44425, 0.89501), 2.38959),
]
# The published half of the batch: conditional output with guidance on three channels.
GUIDED = [
    ("dit", 1.5, None, 0.145443, 2.362096, (0.05345, -2.96450, 0.02664), 5.02279),
    ("mdt", 3.8, 4.0, 0.153608, 2.402769, (-0.31291, -3.94362, -0.36878), 5.03430),
    ("mdtv2", 3.8, 4.0, 0.063257, 2.172856, (0.77246, -2.33735, 0.85327), 5.04569),
]


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


LOSSES = [
    ("mdt", 0, (6.4594, 5.18642, 5.63463), (4.26851, 0.11809, 0.07464)),
    ("mdt", 179, (6.46037, 5.28612, 6.24382), (4.33389, 0.12033, 0.08271)),
    ("mdtv2", 0, (0.00274, 0.92442, 5.80418), (4.01326, 0.09728, 0.07689)),
    ("mdtv2", 153, (0.00273, 0.91979, 5.87183), (3.99844, 0.09679, 0.07778)),
]


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


PARAMETERS = [
    ("dit", "s", 0, 32_963_360),
    ("dit", "b", 0, 130_512_416),
    ("dit", "l", 0, 458_102_816),
    ("dit", "xl", 0, 675_129_632),
    ("mdt", "s", 2, 35_797_208),
    ("mdt", "b", 2, 141_488_528),
    ("mdt", "l", 2, 477_641_312),
    ("mdt", "xl", 2, 699_778_144),
    ("mdtv2", "s", 4, 38_159_576),
    ("mdtv2", "b", 4, 150_931_856),
    ("mdtv2", "l", 4, 507_015_776),
    ("mdtv2", "xl", 4, 742_263_904),
    ("mdtv2", "s", 6, 38_454_872),
    ("mdtv2", "b", 6, 152_112_272),
    ("mdtv2", "l", 6, 509_113_952),
    ("mdtv2", "xl", 6, 744_919_264),
]
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}


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
