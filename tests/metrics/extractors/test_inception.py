"""Both files of the Inception network give one extractor."""

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.sized import sized
from mdt_cli.metrics import extract as extraction
from mdt_cli.metrics.extract import Extracted, extract
from mdt_cli.metrics.extractors import weights
from mdt_cli.metrics.extractors.build import build_extractor, extract_batch
from tests.metrics.extractors.test_inception_network import pooled_of, random_weights
from tests.metrics.stand_in import write_stand_in
from tests.pictures import array, png, write_folder

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights in the layout of pytorch-fid's file."""
    file = tmp_path / "pt_inception.pth"
    torch.save(random_weights().state_dict(), file)
    monkeypatch.setattr(weights, "PYTORCH_FID_SHA256", weights.sha256_of(file))
    return file


def test_legacy_tensorflow_is_torch_fidelity_from_the_pixels_on(plain: Path) -> None:
    extractor = build_extractor("inception", CPU, plain, "legacy_tensorflow", spatial=True)
    theirs = FeatureExtractorInceptionV3(
        "test", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(plain)
    )
    picture = array(3, 40, 40)
    found = extract_batch(extractor, torch.from_numpy(extractor.prepare(picture))[None])
    pooled, logits = theirs(torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert found.shape == (1, 2048 + 2023)
    assert (extractor.dimensions, extractor.spatial, extractor.width) == (2048, 2023, 4071)
    assert (found[:, :2048] - pooled).abs().max() < 1e-5 * pooled.abs().max()
    assert extractor.head_CD is not None
    assert extractor.bias_C is None
    softmax = (found[:, :2048] @ extractor.head_CD.T).softmax(1)
    assert (softmax - logits.softmax(1)).abs().max() < 1e-5


def test_the_rules_scale_as_their_sources_do(plain: Path) -> None:
    """TensorFlow's graph takes (x - 128) / 128, pytorch-fid 2 x / 255 - 1."""
    network = pooled_of(random_weights())
    picture = array(3, 299, 299)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    for rule, scaled in (
        ("clean", (image - 128) / 128),
        ("legacy_tensorflow", (image - 128) / 128),
        ("legacy_pytorch", 2 * (image / 255) - 1),
    ):
        extractor = build_extractor("inception", CPU, plain, rule)
        found = extract_batch(extractor, torch.from_numpy(extractor.prepare(picture))[None])
        with torch.no_grad():
            expected = network(scaled)
        assert found.shape == (1, 2048)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_torchscript_gives_its_map_without_disturbing_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stand-in.pt"
    monkeypatch.setattr(weights, "INCEPTION_SHA256", write_stand_in(file))
    both = build_extractor("inception", CPU, file, "clean", spatial=True)
    alone = build_extractor("inception", CPU, file, "clean")
    picture = torch.from_numpy(both.prepare(array(0)))[None]
    found = extract_batch(both, picture)
    assert torch.equal(found[:, :64], extract_batch(alone, picture))
    graph = torch.jit.load(str(file))
    expected = graph.layers.mixed_6.conv(graph.layers.pool0((picture - 128) / 128))[:, :7]
    assert torch.equal(found[:, 64:], expected.permute(0, 2, 3, 1).reshape(1, -1))


def test_torchscript_without_the_map_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1))
            self.output = torch.nn.Linear(3, 1008)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    file = tmp_path / "bare.pt"
    torch.jit.save(torch.jit.script(Bare()), str(file))
    monkeypatch.setattr(weights, "INCEPTION_SHA256", weights.sha256_of(file))
    build_extractor("inception", CPU, file)
    with pytest.raises(MdtError, match=r"has no layer mixed_6.conv, which sfid is made of"):
        build_extractor("inception", CPU, file, spatial=True)


def test_a_map_that_is_not_the_blocks_first_branch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).relu()  # the rectifier is not part of `conv`

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential()
            self.layers.add_module("pool0", torch.nn.AdaptiveAvgPool2d(17))
            self.layers.add_module("mixed_6", Block())
            self.output = torch.nn.Linear(8 * 17 * 17, 1008)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    file = tmp_path / "other.pt"
    torch.jit.save(torch.jit.script(Other()), str(file))
    monkeypatch.setattr(weights, "INCEPTION_SHA256", weights.sha256_of(file))
    with pytest.raises(MdtError, match="not those of the published Inception, so no sfid"):
        build_extractor("inception", CPU, file, spatial=True)


def test_weights_of_another_network_and_truncated_ones(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short.pth"
    short.write_bytes(plain.read_bytes()[:100_000])
    with pytest.raises(MdtError, match=r"short.pth is truncated or another file"):
        build_extractor("inception", CPU, short)
    for name, content in (("a.pth", {"x": torch.zeros(1)}), ("b.pth", [1, 2])):
        other = tmp_path / name
        torch.save(content, other)
        monkeypatch.setattr(weights, "PYTORCH_FID_SHA256", weights.sha256_of(other))
        with pytest.raises(MdtError, match=f"{name} is not the Inception weights of pytorch-fid"):
            build_extractor("inception", CPU, other)


def test_spatial_rows_of_a_very_large_set_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stand-in.pt"
    monkeypatch.setattr(weights, "INCEPTION_SHA256", write_stand_in(file))
    extractor = build_extractor("inception", CPU, file, "clean", spatial=True)
    images = sized(
        open_images(write_folder(tmp_path / "a", {f"{i}.png": png(i) for i in range(5)}))
    )

    def run() -> Extracted:
        work = extract(images, extractor, CPU, 2, keep=True)
        while True:
            try:
                next(work)
            except StopIteration as finished:
                return finished.value

    whole = run()
    assert whole.spatial_NS is not None
    assert whole.spatial_NS.shape == (5, 2023)
    monkeypatch.setattr(extraction, "SPATIAL_BYTES", 4 * 5 * 2023 - 1)
    lean = run()
    assert lean.spatial_NS is None
    assert torch.equal(lean.features_ND, whole.features_ND)
    assert torch.equal(lean.spatial.sigma_DD, whole.spatial.sigma_DD)
    assert (whole.spatial.mu_D - whole.spatial_NS.double().mean(0)).abs().max() < 1e-9
