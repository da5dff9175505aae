"""Extractors by name: what turns an image into features and class logits, resizing included."""

from pathlib import Path

import torch

from mdt_cli.metrics.extractors.dinov2_clip import clip, dinov2
from mdt_cli.metrics.extractors.efficientnet import efficientnet_lite0
from mdt_cli.metrics.extractors.extractor import Extractor, extract_batch
from mdt_cli.metrics.extractors.inception import inception
from mdt_cli.metrics.extractors.resize import RESIZE_RULES
from mdt_cli.metrics.extractors.torchscript import from_module
from mdt_cli.metrics.extractors.weights import inception_file

__all__ = ["RESIZE_RULES", "Extractor", "build_extractor", "extract_batch"]


def build_extractor(
    name: str | Path,
    device: torch.device,
    weights: Path | None = None,
    resize: str = "clean",
    spatial: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Extractor:
    """An extractor by name, or from a module in a file; MdtError where weights are unfit.

    `spatial` asks for the features of sFID beside the pooled ones; only Inception has them.
    `image_size` (height, width) is what a module from a file is tried with.
    """
    match name:
        case "inception":
            return inception(inception_file(weights), device, resize, spatial)
        case "efficientnet-lite0":
            return efficientnet_lite0(device)
        case "dinov2":
            return dinov2(weights, device)
        case "clip":
            return clip(weights, device)
        case Path():
            return from_module(name, device, image_size)
        case _:
            raise ValueError(f"no extractor {name!r}")
