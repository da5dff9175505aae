"""The Inception network of 2015 behind published FID, sFID and Inception scores.

It is the third Inception of Szegedy et al. 2016 with the weights and the quirks of the file that
TensorFlow gave out in December 2015: 1,008 classes, averages that leave the padding out, and a
maximum in place of the last block's average. Layers are named as in torchvision, so that the
converted weights of pytorch-fid load as they are.

Axes: B images, C channels, H W places, D = 2,048 pooled features, S = 2,023 spatial features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 1008
POOLED = 2048
# sFID takes seven channels of a 17 x 17 map (Nash et al. 2021; Dhariwal & Nichol 2021).
SPATIAL_CHANNELS = 7
SPATIAL = SPATIAL_CHANNELS * 17 * 17
# What TensorFlow's graph calls mixed_6 (its blocks count from `mixed`, `mixed_1`, ...).
SPATIAL_BLOCK, SPATIAL_BRANCH = "Mixed_6d", "branch1x1"


@dataclass(frozen=True)
class Conv:
    """One convolution of a block; stride 1 keeps the size, stride 2 drops the edge."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


# A branch: its convolutions in a row; the second of a pair sees what the first of the pair sees,
# and both answers are stacked.
Step = Conv | tuple[Conv, Conv]
Branch = Sequence[Step]


class ConvNormRelu(nn.Module):
    """Convolution, batch statistics of the training, rectifier."""

    def __init__(
        self, inputs: int, channels: int, kernel: tuple[int, int], stride: int, padded: bool
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_BCHW)))


class Block(nn.Module):
    """Branches side by side, stacked along the channels in their order.

    `pooling` is what stands before the last branch: "average" or "max" of 3 x 3 places, or
    "shrink", a max with stride 2 that is a branch of its own.
    """

    def __init__(self, inputs: int, branches: Sequence[Branch], pooling: str) -> None:
        super().__init__()
        self._branches, self._pooling = tuple(branches), pooling
        for branch in branches:
            width = inputs
            for step in branch:
                pair = step if isinstance(step, tuple) else (step,)
                for conv in pair:
                    layer = ConvNormRelu(
                        width, conv.channels, conv.kernel, conv.stride, conv.stride == 1
                    )
                    self.add_module(conv.name, layer)
                width = sum(conv.channels for conv in pair)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        plain = self._branches if self._pooling == "shrink" else self._branches[:-1]
        outputs = [self._run(branch, x_BCHW) for branch in plain]
        if self._pooling == "shrink":
            outputs.append(F.max_pool2d(x_BCHW, 3, stride=2))
        elif self._pooling == "max":
            outputs.append(self._run(self._branches[-1], F.max_pool2d(x_BCHW, 3, 1, 1)))
        else:
            pooled_BCHW = F.avg_pool2d(x_BCHW, 3, 1, 1, count_include_pad=False)
            outputs.append(self._run(self._branches[-1], pooled_BCHW))
        return torch.cat(outputs, 1)

    def _run(self, branch: Branch, x_BCHW: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, tuple):
                x_BCHW = torch.cat([self.get_submodule(conv.name)(x_BCHW) for conv in step], 1)
            else:
                x_BCHW = self.get_submodule(step.name)(x_BCHW)
        return x_BCHW


class Inception(nn.Module):
    """(x - 128) / 128 of [B,3,299,299] -> pooled features [B,D] and spatial features [B,S]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormRelu(3, 32, (3, 3), 2, padded=False)
        self.Conv2d_2a_3x3 = ConvNormRelu(32, 32, (3, 3), 1, padded=False)
        self.Conv2d_2b_3x3 = ConvNormRelu(32, 64, (3, 3), 1, padded=True)
        self.Conv2d_3b_1x1 = ConvNormRelu(64, 80, (1, 1), 1, padded=False)
        self.Conv2d_4a_3x3 = ConvNormRelu(80, 192, (3, 3), 1, padded=False)
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _shrink_to_17()
        self.Mixed_6b = _block_17(128)
        self.Mixed_6c = _block_17(160)
        self.Mixed_6d = _block_17(160)
        self.Mixed_6e = _block_17(192)
        self.Mixed_7a = _shrink_to_8()
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(2048, "max")
        self.fc = nn.Linear(POOLED, CLASSES)

    def forward(self, x_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x_B3HW)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        # The block stacks its branch of 1 x 1 first, so its first channels are that branch's.
        spatial_BS = spatial_columns(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        return x.mean((2, 3)), spatial_BS


def spatial_columns(map_BCHW: Tensor) -> Tensor:
    """The first seven channels as rows in TensorFlow's order: place by place, channels last.

    Stored statistics keep that order; the distance of two own sets would not care.
    """
    return map_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def _block_35(inputs: int, pooled: int) -> Block:
    return Block(
        inputs,
        [
            [Conv("branch1x1", 64)],
            [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
            [
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, (3, 3)),
                Conv("branch3x3dbl_3", 96, (3, 3)),
            ],
            [Conv("branch_pool", pooled)],
        ],
        "average",
    )


def _shrink_to_17() -> Block:
    return Block(
        288,
        [
            [Conv("branch3x3", 384, (3, 3), 2)],
            [
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, (3, 3)),
                Conv("branch3x3dbl_3", 96, (3, 3), 2),
            ],
        ],
        "shrink",
    )


def _block_17(inner: int) -> Block:
    wide, tall = (1, 7), (7, 1)
    return Block(
        768,
        [
            [Conv("branch1x1", 192)],
            [
                Conv("branch7x7_1", inner),
                Conv("branch7x7_2", inner, wide),
                Conv("branch7x7_3", 192, tall),
            ],
            [
                Conv("branch7x7dbl_1", inner),
                Conv("branch7x7dbl_2", inner, tall),
                Conv("branch7x7dbl_3", inner, wide),
                Conv("branch7x7dbl_4", inner, tall),
                Conv("branch7x7dbl_5", 192, wide),
            ],
            [Conv("branch_pool", 192)],
        ],
        "average",
    )


def _shrink_to_8() -> Block:
    return Block(
        768,
        [
            [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)],
            [
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, (3, 3), 2),
            ],
        ],
        "shrink",
    )


def _block_8(inputs: int, pooling: str) -> Block:
    wide, tall = (1, 3), (3, 1)
    return Block(
        inputs,
        [
            [Conv("branch1x1", 320)],
            [
                Conv("branch3x3_1", 384),
                (Conv("branch3x3_2a", 384, wide), Conv("branch3x3_2b", 384, tall)),
            ],
            [
                Conv("branch3x3dbl_1", 448),
                Conv("branch3x3dbl_2", 384, (3, 3)),
                (Conv("branch3x3dbl_3a", 384, wide), Conv("branch3x3dbl_3b", 384, tall)),
            ],
            [Conv("branch_pool", 192)],
        ],
        pooling,
    )
