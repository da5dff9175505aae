"""DINOv2 and CLIP as extractors, from folders of weights and through optional libraries.

Axes: B images, H W pixels, D features. Pixels are 0..255.
"""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdt_cli.errors import MdtError
from mdt_cli.json_reader import read_json
from mdt_cli.metrics.extractors import resize as rules
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.extractors.weights import folder_digest, network_folder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
DINOV2_SIDE = 224
# What the published numbers are made with: ViT-L/14 of both.
DINOV2_ID, DINOV2_WIDTH = "facebook/dinov2-large", 1024
CLIP_ID, CLIP_WIDTH, CLIP_SIDE = "openai/clip-vit-large-patch14-336", 768, 336

BROKEN = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)


def dinov2(weights: Path | None, device: torch.device) -> Extractor:
    """The class token after the last norm, images at 224 x 224 (Stein et al. 2023, FD-DINOv2)."""
    folder = network_folder(weights, "dinov2", DINOV2_ID)
    config = _config(folder)
    token, dimensions = (
        _dinov2_of_timm(folder, device)
        if "architecture" in config
        else _dinov2_of_transformers(folder, config, device)
    )
    digest = folder_digest(folder)
    return Extractor(
        name=_name("dinov2", dimensions == DINOV2_WIDTH, digest),
        resize="clean",
        input_size=DINOV2_SIDE,
        dimensions=dimensions,
        weights_sha256=digest,
        prepare=rules.clean(DINOV2_SIDE),
        features=lambda x: token(_normalised(x, IMAGENET_MEAN, IMAGENET_STD)),
    )


def clip(weights: Path | None, device: torch.device) -> Extractor:
    """CLIP's embedding of length 1, resized as in the published CMMD (Jayasumana et al. 2024)."""
    folder = network_folder(weights, "clip", CLIP_ID)
    config = _config(folder)
    _needs("transformers", "clip")
    from transformers import CLIPVisionModelWithProjection

    if config.get("model_type") not in ("clip", "clip_vision_model"):
        raise _foreign(folder, config, "CLIP")
    network = _quietly(folder, lambda: CLIPVisionModelWithProjection.from_pretrained(folder))
    network.eval().to(device)
    side, width = int(network.config.image_size), int(network.config.projection_dim)
    digest = folder_digest(folder)

    def features(images_B3HW: Tensor) -> Tensor:
        normalised = _normalised(images_B3HW, CLIP_MEAN, CLIP_STD)
        return torch.nn.functional.normalize(network(pixel_values=normalised).image_embeds, dim=1)

    return Extractor(
        name=_name("clip", (side, width) == (CLIP_SIDE, CLIP_WIDTH), digest),
        resize="cmmd",
        input_size=side,
        dimensions=width,
        weights_sha256=digest,
        prepare=rules.square_bicubic(side),
        features=features,
    )


def _dinov2_of_transformers(
    folder: Path, config: dict[str, Any], device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int]:
    _needs("transformers", "dinov2")
    from transformers import Dinov2Model

    if config.get("model_type") != "dinov2":
        raise _foreign(folder, config, "DINOv2")
    network = _quietly(folder, lambda: Dinov2Model.from_pretrained(folder))
    positions = network.embeddings.position_embeddings
    network.embeddings.position_embeddings = torch.nn.Parameter(
        _positions(positions.detach(), DINOV2_SIDE // int(network.config.patch_size))
    )
    network.eval().to(device)
    return lambda x: network(pixel_values=x).pooler_output, int(network.config.hidden_size)


def _dinov2_of_timm(folder: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], int]:
    _needs("timm", "dinov2")
    import timm

    network = _quietly(
        folder,
        lambda: timm.create_model(
            f"local-dir:{folder.resolve()}", pretrained=True, num_classes=0, img_size=DINOV2_SIDE
        ),
    )
    with safe_open(folder / "model.safetensors", "pt") as stored:
        # As learned: timm resized them by its own rule when it loaded them.
        positions = stored.get_tensor("pos_embed")
    if network.pos_embed.shape[1] == 1 + network.patch_embed.num_patches:
        network.pos_embed = torch.nn.Parameter(
            _positions(positions, network.patch_embed.grid_size[0])
        )
    network.eval().to(device)
    return lambda x: network.forward_features(x)[:, 0], int(network.num_features)


def _positions(learned_1ND: Tensor, side: int) -> Tensor:
    """Learned positions (class token first) on a grid of `side` x `side`, as the published DINOv2.

    Its scale of (side + 0.1) / side learned is slightly larger than that of the libraries, and timm
    smooths as well: with either, features differ from those of published FD-DINOv2.
    """
    token, grid = learned_1ND[:, :1], learned_1ND[:, 1:].float()
    learned = math.isqrt(grid.shape[1])
    if learned == side:
        return learned_1ND
    planes = grid.reshape(1, learned, learned, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / learned
    resized = torch.nn.functional.interpolate(planes, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, resized.flatten(2).transpose(1, 2).to(token)], 1)


def _quietly(folder: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    # Damage shows itself as any of these, by library and by where the file broke.
    except (*BROKEN, SafetensorError) as error:
        raise _broken(folder, error) from error


def _broken(folder: Path, error: Exception) -> MdtError:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    reason = lines[0].strip()[:200] if lines else type(error).__name__
    return MdtError(
        f"the weights in {folder} cannot be loaded: {reason}", "download the folder again"
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise _broken(folder, error) from error
    if not isinstance(config, dict):
        raise MdtError(
            f"{folder / 'config.json'} is not a JSON object", "download the folder again"
        )
    return config


def _foreign(folder: Path, config: dict[str, Any], wanted: str) -> MdtError:
    kind = config.get("model_type", "unknown")
    return MdtError(f"{folder} holds a model of type {kind}, not {wanted}", "give another folder")


def _needs(library: str, extractor: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise MdtError(
            f"the extractor {extractor} needs {library} for these weights",
            f"pip install {library}, or use --extractor efficientnet-lite0",
        )


def _name(name: str, published: bool, digest: str) -> str:
    """Another size of the network is another metric."""
    return name if published else f"{name}-{digest[:8]}"


def _normalised(
    images_B3HW: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Tensor:
    shape = (1, 3, 1, 1)
    return (images_B3HW / 255 - images_B3HW.new_tensor(mean).reshape(shape)) / (
        images_B3HW.new_tensor(deviation).reshape(shape)
    )
