"""EfficientNet-Lite0 with ImageNet weights from a package: an extractor without a download.

Axes: B images, H W pixels, C classes, D features. Pixels are 0..255.
"""

import torch
from torch import Tensor

from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors import resize as rules
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.extractors.weights import lite0_file

SIDE, DIMENSIONS = 224, 1280


def efficientnet_lite0(device: torch.device) -> Extractor:
    """Pooled 1,280 features of 224 x 224 images, and ImageNet's class layer."""
    from efficientnet_lite_pytorch import EfficientNet

    file = lite0_file()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network.eval().to(device)
    head = network.state_dict()

    def features(images_B3HW: Tensor) -> Tensor:
        # Mean 127 and scale 128 are the published preprocessing of the Lite family.
        return network.extract_features((images_B3HW - 127) / 128).mean((2, 3))

    return Extractor(
        name="efficientnet-lite0",
        resize="clean",
        input_size=SIDE,
        dimensions=DIMENSIONS,
        weights_sha256=sha256_of(file),
        prepare=rules.clean(SIDE),
        features=features,
        head_CD=head["_fc.weight"].cpu(),
        bias_C=head["_fc.bias"].cpu(),
    )
