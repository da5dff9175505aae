"""From decoded images in [-1, 1] to bytes."""

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["round", "truncate"]


def to_uint8(images_B3HW: Tensor, rule: Rule) -> Tensor:
    """[B, H, W, 3] uint8 on the CPU.

    round: 127.5 x + 128, cut to 0..255, then the fraction dropped (DiT, EDM). truncate:
    127.5 (x + 1) likewise (MDT, MaskDiT): half a level darker on average.
    """
    shift = 128.0 if rule == "round" else 127.5
    scaled = (images_B3HW.float() * 127.5 + shift).clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
