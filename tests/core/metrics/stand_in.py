"""A TorchScript module called as the published Inception file is, small and made on the spot."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mdt_cli.core.files import sha256_of


class StandIn(nn.Module):
    """64 features and 1,008 classes; `layers` and `output` have the names of the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 4, 1), nn.ReLU())
        self.output = nn.Linear(64, 1008)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        resized = nn.functional.interpolate(img.float(), size=[299, 299], mode="bilinear")
        features = self.layers((resized - 128) / 128).reshape(-1, 64)
        if return_features:
            return features
        bias = None if no_output_bias else self.output.bias
        return nn.functional.linear(features, self.output.weight, bias).softmax(1)


def write_stand_in(path: Path) -> str:
    """Write it and return its SHA-256."""
    generator = torch.Generator().manual_seed(0)
    network = StandIn()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(path))
    return sha256_of(path)
