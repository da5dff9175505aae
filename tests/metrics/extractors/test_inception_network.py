"""The network of plain Inception weights beside torch-fidelity's, which takes the same file."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mdt_cli.errors import MdtError
from mdt_cli.metrics.extractors.inception import SPATIAL, fid_network, with_spatial


def random_weights(seed: int = 0) -> nn.Module:
    """Weights that let every layer matter: scaled by their inputs, batch statistics not trivial."""
    generator = torch.Generator().manual_seed(seed)
    network = fid_network().eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 4:
                deviation = (2 / value[0].numel()) ** 0.5
                value.copy_(torch.randn(value.shape, generator=generator) * deviation)
            elif name.endswith("num_batches_tracked"):
                continue
            elif name.endswith(("running_var", "bn.weight")):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            else:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, FeatureExtractorInceptionV3]:
    ours = random_weights()
    file: Path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(ours.state_dict(), file)
    theirs = FeatureExtractorInceptionV3(
        "test", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(file)
    )
    return ours, theirs


def pooled_of(network: nn.Module) -> nn.Module:
    """A copy that ends before the class layer."""
    copied = copy.deepcopy(network)
    copied.fc = nn.Identity()
    return copied


def pictures(n: int, side: int = 299) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 7, 7, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth + torch.randn(smooth.shape, generator=generator) * 20).clamp(0, 255).byte()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_pool_logits_and_softmax_agree(
    pair: tuple[nn.Module, FeatureExtractorInceptionV3],
) -> None:
    ours, theirs = pair
    images = pictures(2)
    with torch.no_grad():
        logits = ours((images.float() - 128) / 128)
        pooled = pooled_of(ours)((images.float() - 128) / 128)
        expected, unbiased, biased = theirs(images)
        assert pooled.shape == (2, 2048)
        assert relative(pooled, expected) < 1e-5
        without = pooled @ ours.fc.weight.T
        assert relative(without, unbiased) < 1e-5
        assert relative(logits, biased) < 1e-5
        assert (without.softmax(1) - unbiased.softmax(1)).abs().max() < 1e-5


def test_spatial_features_are_the_relu_of_mixed_6d_branch1x1_channels_last(
    pair: tuple[nn.Module, FeatureExtractorInceptionV3],
) -> None:
    """`mixed_6/conv:0` of the graph: its converted weights bear the name Mixed_6d.branch1x1."""
    ours, theirs = pair
    seen: list[Tensor] = []
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, given, answer: seen.append(answer)
    )
    images = pictures(2)
    with torch.no_grad():
        found = with_spatial(pooled_of(ours))((images.float() - 128) / 128)
        spatial = found[:, 2048:]
        theirs(images)
    hook.remove()
    assert spatial.shape == (2, SPATIAL) == (2, 2023)
    channels_last = seen[0][:, :7].permute(0, 2, 3, 1).reshape(2, -1)
    assert relative(spatial, channels_last) < 1e-5
    assert spatial.min() >= 0
    # Neither the order of the axes nor the neighbouring blocks would do.
    assert relative(spatial, seen[0][:, :7].reshape(2, -1)) > 0.1


def test_keys_are_pytorch_fids() -> None:
    keys = set(fid_network().state_dict())
    assert len(keys) == 566  # as in pt_inception-2015-12-05-6726825d.pth
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch5x5_2.bn.running_var",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.bn.bias",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "fc.weight",
        "fc.bias",
    } <= keys


def test_threads_that_share_the_network_see_their_own_maps() -> None:
    run = with_spatial(pooled_of(random_weights()))
    images = [((pictures(1).float() - 128) / 128).roll(k, 2) for k in range(6)]

    def features(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(image)

    alone = [features(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(features, images))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_torchvision_is_needed_for_these_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None; "
        "import mdt_cli.metrics.extractors.build as build; print(build.build_extractor.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "build_extractor", done.stderr
    monkeypatch.setitem(sys.modules, "torchvision.models.inception", None)
    with pytest.raises(MdtError, match="need torchvision, which cannot be imported: import of"):
        fid_network()
