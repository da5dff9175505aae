"""The Inception network of published tables, from either of the two files that hold it.

Axes: B images, H W pixels, D pooled and S spatial features, C classes.
"""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors import resize as rules
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.extractors.inception_network import (
    SPATIAL,
    SPATIAL_CHANNELS,
    Inception,
    spatial_columns,
)
from mdt_cli.metrics.extractors.weights import is_pytorch_fid

SIDE = 299
# The block of the TorchScript file that holds the map of sFID, under TensorFlow's name.
BLOCK = "mixed_6"
# Normalised [B,3,299,299] -> [B,D], or [B,D+S] where the spatial features are asked for.
Network = Callable[[Tensor], Tensor]


def inception(file: Path, device: torch.device, resize: str, spatial: bool) -> Extractor:
    """Pooled features as FID takes them, a head without bias as the Inception score takes it.

    `clean` is clean-fid's way (Parmar et al. 2022), `legacy_tensorflow` that of the first FID and
    of Dhariwal & Nichol 2021, `legacy_pytorch` pytorch-fid's, which also scales pixels to exactly
    -1..1 where TensorFlow's graph takes (x - 128) / 128. The class layer has no bias, as in the
    original score (Salimans et al. 2016).
    """
    load = _own_network if is_pytorch_fid(file) else _torchscript
    network, head_CD = load(file, device, spatial)
    prepare, normalised = _resizing(resize)
    return Extractor(
        name="inception",
        resize=resize,
        input_size=SIDE,
        dimensions=head_CD.shape[1],
        weights_sha256=sha256_of(file),
        prepare=prepare,
        features=lambda images_B3HW: network(normalised(images_B3HW)),
        head_CD=head_CD,
        spatial=SPATIAL if spatial else 0,
    )


def _resizing(resize: str) -> tuple[rules.Prepare, Callable[[Tensor], Tensor]]:
    """What the worker threads do to an image, and what the device does to a batch of them."""
    match resize:
        case "clean":
            return rules.clean(SIDE), lambda x: (x - 128) / 128
        case "legacy_tensorflow":
            return rules.as_they_are, lambda x: (rules.tensorflow_bilinear(x, SIDE) - 128) / 128
        case "legacy_pytorch":
            return rules.bilinear(SIDE), lambda x: x / 127.5 - 1
        case _:
            raise ValueError(f"no resizing {resize!r}")


def _own_network(file: Path, device: torch.device, spatial: bool) -> tuple[Network, Tensor]:
    network = Inception()
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, OSError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise _unfit(file, "not the Inception weights of pytorch-fid", error) from error
    network.eval().to(device)

    def run(x_B3HW: Tensor) -> Tensor:
        pooled_BD, spatial_BS = network(x_B3HW)
        return torch.cat([pooled_BD, spatial_BS], 1) if spatial else pooled_BD

    return run, network.fc.weight.detach().float().cpu()


def _torchscript(file: Path, device: torch.device, spatial: bool) -> tuple[Network, Tensor]:
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript; the published file is TorchScript.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            graph = torch.jit.load(str(file), map_location=device).eval()
        layers = graph.layers
        head_CD = graph.state_dict()["output.weight"].float().cpu()
    except (RuntimeError, AttributeError, KeyError) as error:
        raise _unfit(file, "not the TorchScript Inception", error) from error
    if spatial:
        return _with_map(file, layers, device), head_CD
    return lambda x_B3HW: layers(x_B3HW).flatten(1), head_CD


def _with_map(file: Path, layers: nn.Module, device: torch.device) -> Network:
    """The same layers one by one, to take the map out on the way.

    A probe proves that the walk is the network and that the map is what `BLOCK` stacks first.
    """
    children = dict(layers.named_children())
    names = list(children)
    if BLOCK not in children or "conv" not in dict(children[BLOCK].named_children()):
        raise MdtError(
            f"{file} has no layer {BLOCK}.conv, which sfid is made of",
            "leave sfid out of --metrics, or give the weights of pytorch-fid with --weights",
        )
    first, branch = names.index(BLOCK), dict(children[BLOCK].named_children())["conv"]

    def walk(x_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for name in names[:first]:
            x_B3HW = children[name](x_B3HW)
        map_BCHW = branch(x_B3HW)
        block_BCHW = children[BLOCK](x_B3HW)
        x = block_BCHW
        for name in names[first + 1 :]:
            x = children[name](x)
        return x.flatten(1), map_BCHW, block_BCHW

    probe_13HW = torch.linspace(-1, 1, 3 * SIDE * SIDE, device=device).reshape(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        pooled, found, block = walk(probe_13HW)
        kept = slice(0, SPATIAL_CHANNELS)
        if not (
            torch.allclose(pooled, layers(probe_13HW).flatten(1), rtol=1e-4, atol=1e-5)
            and found[:, kept].shape == block[:, kept].shape == (1, SPATIAL_CHANNELS, 17, 17)
            and torch.allclose(found[:, kept], block[:, kept], rtol=1e-4, atol=1e-5)
        ):
            raise MdtError(
                f"{file}: the layers are not those of the published Inception, so no sfid",
                "leave sfid out of --metrics, or give the weights of pytorch-fid with --weights",
            )

    def run(x_B3HW: Tensor) -> Tensor:
        pooled_BD, map_BCHW, _ = walk(x_B3HW)
        return torch.cat([pooled_BD, spatial_columns(map_BCHW)], 1)

    return run


def _unfit(file: Path, what: str, error: Exception) -> MdtError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MdtError(f"{file} is {what}: {lines[0]}", "fetch the file again")
