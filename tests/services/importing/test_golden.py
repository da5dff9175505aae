"""Files in official layouts, imported, answer as the official code does (synthetic weights)."""

from pathlib import Path

import pytest
import torch

from mdt_cli.artifacts.weights import read_header, read_tensors
from mdt_cli.config.run import RunConfig
from mdt_cli.services.build.network import build_network
from mdt_cli.services.events import ImportDone
from mdt_cli.services.importing.import_checkpoint import ImportRequest, import_checkpoint
from mdt_cli.services.model import load_trained, put_weights
from tests.golden.synthetic import latents, subset, values
from tests.reference import official_layouts as official

T, Y = torch.tensor([10, 900]), torch.tensor([3, 7])
S = {"width": 384, "depth": 12, "grid": 16, "classes": 1000}
STATES = {
    "dit": lambda: official.filled(official.dit(**S)),
    "mdt": lambda: official.filled(official.mdt(**S, heads=6)),
    "mdtv2": lambda: official.filled(official.mdt(**S, heads=6, decoder=6)),
    "maskdit": lambda: official.filled(official.maskdit(**S, narrow=512, narrow_depth=8)),
    "uvit": lambda: official.filled(
        official.uvit(width=512, halves=6, grid=16, classes=1000), fixed_positions=False
    ),
    "maskdm": lambda: official.filled(
        official.maskdm(width=512, halves=6, grid=16), fixed_positions=False
    ),
}
# Tensors that freshly built official models have, index tables included.
XL = {"width": 1152, "depth": 28, "grid": 16, "classes": 1000}
COUNTS = [
    (292, official.dit(**XL)),
    (362, official.mdt(**XL, heads=16)),
    (394, official.mdt(**XL, heads=16, decoder=4)),
    (378, official.maskdit(**XL, narrow=512, narrow_depth=8)),
    (355, official.uvit(width=1152, halves=14, grid=16, classes=1000, conv=False)),
    (162, official.maskdm(width=512, halves=6, grid=16)),
]


def imported(tmp_path: Path, family: str, **choices: object) -> Path:
    torch.save(STATES[family](), tmp_path / "official.pt")
    request = ImportRequest(tmp_path / "official.pt", tmp_path / "ours", family, **choices)
    done = list(import_checkpoint(request))[-1]
    assert isinstance(done, ImportDone)
    (tmp_path / "official.pt").unlink()
    return tmp_path / "ours"


def check(answer: torch.Tensor, mean: float, std: float, first: tuple, last: float) -> None:
    flat = answer.double().flatten()
    seen = torch.stack([flat.mean(), flat.std(correction=0), *flat[:3], flat[-1]])
    wanted = torch.tensor([mean, std, *first, last], dtype=torch.float64)
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-5)


def with_all_parts(path: Path) -> torch.nn.Module:
    """The network as training builds it, the parts of masked passes included."""
    header = read_header(path / "weights.safetensors")
    config = RunConfig.model_validate(header.config)
    network = build_network(config, tuple(header.data["latent_shape"]), header.data["num_classes"])
    put_weights(network, read_tensors(path / "weights.safetensors"), path)
    return network.eval()


@torch.no_grad()
def test_dit(tmp_path: Path) -> None:
    trained = load_trained(imported(tmp_path, "dit"), None, torch.device("cpu"))
    answer = trained.network(latents(1), T, Y).final
    check(answer, 0.162113, 2.217339, (0.12738, -2.74594, 0.10760), 2.49693)


@torch.no_grad()
def test_mdt(tmp_path: Path) -> None:
    network = with_all_parts(imported(tmp_path, "mdt", decoder_depth=2))
    answer = network(latents(1), T, Y).final
    check(answer, 0.162423, 2.213290, (0.10829, -2.72201, 0.08885), 2.49976)
    answer = network(latents(1), T, Y, subset(2, 179)).final
    check(answer, 0.155231, 2.221777, (0.11063, -2.72441, 0.08583), 2.43792)


@torch.no_grad()
def test_mdtv2(tmp_path: Path) -> None:
    network = with_all_parts(imported(tmp_path, "mdtv2"))
    answer = network(latents(1), T, Y).final
    check(answer, 0.057545, 2.033165, (0.87812, -2.40585, 0.86470), 2.42114)
    answer = network(latents(1), T, Y, subset(2, 153)).final
    check(answer, 0.055526, 2.029643, (0.91628, -2.44425, 0.89501), 2.38959)


@torch.no_grad()
def test_maskdit(tmp_path: Path) -> None:
    path = imported(tmp_path, "maskdit")
    objective = load_trained(path, None, torch.device("cpu")).loss.diffusion
    network = with_all_parts(path)
    x, sigma = latents(1), torch.tensor([0.3, 5.0])
    scaled, times = objective.network_input(x, sigma)
    answer = objective.denoised(network(scaled, times, Y).final, x, sigma)
    check(answer, 0.043494, 1.018354, (-0.95380, -0.22338, -0.25996), -1.18920)
    answer = objective.denoised(network(scaled, times, Y, subset(2, 128)).final, x, sigma)
    check(answer, 0.033475, 1.005394, (-1.03493, -0.16892, -0.34063), -1.22002)
    # Guided by 1.5 at sigma 0.7, on what the network answers: the null class is zeros.
    at = torch.tensor([0.7, 0.7])
    scaled, times = objective.network_input(x, at)
    null = network(scaled, times, torch.tensor([1000, 1000])).final
    guided = null + 1.5 * (network(scaled, times, Y).final - null)
    answer = objective.denoised(guided, x, at)
    check(answer, 0.050975, 0.948786, (0.19551, -0.75627, 0.51364), -1.16357)


@torch.no_grad()
def test_uvit(tmp_path: Path) -> None:
    trained = load_trained(imported(tmp_path, "uvit"), None, torch.device("cpu"))
    answer = trained.network(latents(1), T, Y).final
    check(answer, 0.014939, 0.348755, (0.32741, -0.63101, 0.43238), -0.27619)


@torch.no_grad()
def test_maskdm(tmp_path: Path) -> None:
    trained = load_trained(imported(tmp_path, "maskdm"), None, torch.device("cpu"))
    assert trained.facts["image_size"] == 64
    answer = trained.network(values((2, 3, 64, 64), 5, 4.0), T, None).final
    check(answer, 0.024965, 1.215668, (2.53328, -0.62280, -1.08564), -1.19024)


@pytest.mark.parametrize(("count", "shapes"), COUNTS)
def test_layouts_have_as_many_tensors_as_official_models(count: int, shapes: dict) -> None:
    assert len(shapes) == count
