"""Our Inception beside torch-fidelity's, which shares its weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mdt_cli.metrics.extractors import inception_network as inception
from mdt_cli.metrics.extractors.inception_network import Inception


def random_weights(seed: int = 0) -> Inception:
    """Weights that let every layer matter: scaled by their inputs, batch statistics not trivial."""
    generator = torch.Generator().manual_seed(seed)
    network = Inception().eval()
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
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inception, FeatureExtractorInceptionV3]:
    ours = random_weights()
    file: Path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(ours.state_dict(), file)
    theirs = FeatureExtractorInceptionV3(
        "test", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(file)
    )
    return ours, theirs


def pictures(n: int, side: int = 299) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 7, 7, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth + torch.randn(smooth.shape, generator=generator) * 20).clamp(0, 255).byte()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_pool_logits_and_softmax_agree(
    pair: tuple[Inception, FeatureExtractorInceptionV3],
) -> None:
    ours, theirs = pair
    images = pictures(2)
    with torch.no_grad():
        pooled, _ = ours((images.float() - 128) / 128)
        expected, unbiased, biased = theirs(images)
        assert pooled.shape == (2, 2048)
        assert relative(pooled, expected) < 1e-5
        without = pooled @ ours.fc.weight.T
        assert relative(without, unbiased) < 1e-5
        assert relative(ours.fc(pooled), biased) < 1e-5
        assert (without.softmax(1) - unbiased.softmax(1)).abs().max() < 1e-5


def test_spatial_features_are_the_relu_of_mixed_6d_branch1x1_channels_last(
    pair: tuple[Inception, FeatureExtractorInceptionV3],
) -> None:
    """`mixed_6/conv:0` of the graph: its converted weights bear the name Mixed_6d.branch1x1."""
    ours, theirs = pair
    seen: list[Tensor] = []
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, given, answer: seen.append(answer)
    )
    images = pictures(2)
    with torch.no_grad():
        _, spatial = ours((images.float() - 128) / 128)
        theirs(images)
    hook.remove()
    assert spatial.shape == (2, inception.SPATIAL) == (2, 2023)
    channels_last = seen[0][:, :7].permute(0, 2, 3, 1).reshape(2, -1)
    assert relative(spatial, channels_last) < 1e-5
    assert spatial.min() >= 0
    # Neither the order of the axes nor the neighbouring blocks would do.
    assert relative(spatial, seen[0][:, :7].reshape(2, -1)) > 0.1


def test_keys_are_pytorch_fids() -> None:
    keys = set(Inception().state_dict())
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
