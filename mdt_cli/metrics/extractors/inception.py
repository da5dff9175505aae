"""The Inception network of published tables, from either of the two files that hold it.

Axes: B images, H W pixels, D pooled and S spatial features, C classes.
"""

import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors import resize as rules
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.extractors.weights import is_pytorch_fid

SIDE = 299
CLASSES = 1008
# sFID takes seven channels of a 17 x 17 map (Nash et al. 2021; Dhariwal & Nichol 2021).
SPATIAL_CHANNELS = 7
SPATIAL = SPATIAL_CHANNELS * 17 * 17
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
    load = _plain_weights if is_pytorch_fid(file) else _torchscript
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


def fid_network() -> nn.Module:
    """Inception v3 (Szegedy et al. 2016) as TensorFlow published it in 2015, for other weights.

    It differs from torchvision's in clean-fid's blocks: averages leave the padding out, and a
    maximum stands in place of the last block's average. MdtError where torchvision is not usable.
    """
    try:
        from cleanfid import inception_pytorch as blocks
        from torchvision.models.inception import Inception3
    # A torchvision that was built for another torch fails with any of these.
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise MdtError(
            f"the Inception weights of pytorch-fid need torchvision, which cannot be imported: "
            f"{error}",
            "install the torchvision that fits this torch, or use the Inception file of clean-fid",
        ) from error
    network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = blocks.FIDInceptionE_1(1280)
    network.Mixed_7c = blocks.FIDInceptionE_2(2048)
    return network


def with_spatial(network: nn.Module) -> Network:
    """A function that returns the answer of a `fid_network` with the columns of sFID behind it.

    It leaves a forward hook on `network`. sFID reads mixed_6/conv of TensorFlow's graph, which
    torchvision names Mixed_6d.branch1x1.
    """
    # Threads share the network; each must see the map of its own pass.
    seen = threading.local()

    def keep(module: nn.Module, given: tuple[Tensor, ...], map_BCHW: Tensor) -> None:
        seen.map_BCHW = map_BCHW

    network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(keep)

    def run(x_B3HW: Tensor) -> Tensor:
        answer_BD = network(x_B3HW)
        return torch.cat([answer_BD, spatial_columns(seen.map_BCHW)], 1)

    return run


def spatial_columns(map_BCHW: Tensor) -> Tensor:
    """The first seven channels as rows [B,S] in TensorFlow's order: by position, channels last.

    Stored statistics keep that order; the distance of two own sets would not care.
    """
    return map_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def _plain_weights(file: Path, device: torch.device, spatial: bool) -> tuple[Network, Tensor]:
    with torch.device("meta"):  # every tensor comes from the file
        network = fid_network()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state, assign=True)
    except (RuntimeError, OSError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise _unfit(file, "not the Inception weights of pytorch-fid", error) from error
    head_CD = network.get_parameter("fc.weight").detach().float().cpu()
    network.fc = nn.Identity()
    network.eval().to(device)
    return with_spatial(network) if spatial else network, head_CD


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
    return MdtError(f"{file} is {what}: {lines[0]}", "download the file again")
