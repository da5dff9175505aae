"""A TorchScript module called as the published Inception file is, small and made on the spot."""

import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from mdt_cli.files import sha256_of


class Block(nn.Module):
    """Two branches; the first is the map that sFID takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        self.tower = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x).relu()], 1)


class StandIn(nn.Module):
    """64 features and 1,008 classes; `layers`, `mixed_6.conv` and `output` as in the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                pool0=nn.AdaptiveAvgPool2d(17), mixed_6=Block(), pool2=nn.AdaptiveAvgPool2d(2)
            )
        )
        self.output = nn.Linear(64, 1008)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        # Bilinear with the corner of the grid at the corner of the image, as the real one resizes.
        n, height, width = img.shape[0], img.shape[2], img.shape[3]
        theta = torch.eye(2, 3)
        theta[0, 2] += 1 / width - 1 / 299
        theta[1, 2] += 1 / height - 1 / 299
        grid = nn.functional.affine_grid(
            theta[None].repeat(n, 1, 1), [n, 3, 299, 299], align_corners=False
        )
        resized = nn.functional.grid_sample(
            img.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
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
