"""A small network with random weights, as a file that every stage can read."""

from pathlib import Path
from typing import Any

import torch

from mdt_cli.artifacts.weights import Header, save_weights
from mdt_cli.config.run import RunConfig
from mdt_cli.services.build.network import build_network

NAMES = ("ant", "bee", "cat", "dog")
SIDE = 8


def write_weights(
    path: Path,
    objective: dict[str, Any] | None = None,
    sampling: dict[str, Any] | None = None,
    conditional: bool = True,
    class_names: tuple[str, ...] = NAMES,
    class_dropout: float = 0.1,
    spread: float = 0.08,
    codec: dict[str, Any] | None = None,
    latent_shape: tuple[int, int, int] = (3, SIDE, SIDE),
    image_size: int = SIDE,
) -> Path:
    """A `.safetensors` file of an 8-pixel model; `spread` is that of its random weights."""
    objective = objective or {"kind": "flow"}
    usual = {"solver": "ddpm" if objective["kind"] == "epsilon" else "euler", "steps": 4}
    config = RunConfig.model_validate(
        {
            "model": {"patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2},
            "objective": objective,
            "data": {"conditional": conditional, "class_dropout": class_dropout},
            "sampling": {**usual, **(sampling or {})},
        }
    )
    num_classes = len(class_names)
    network = build_network(config, latent_shape, num_classes)
    generator = torch.Generator().manual_seed(11)
    weights = {
        name: spread * torch.randn(parameter.shape, generator=generator)
        for name, parameter in network.named_parameters()
    }
    facts = {
        "codec": codec or {"name": "pixels"},
        "latent_shape": list(latent_shape),
        "image_size": image_size,
        "num_classes": num_classes,
        "class_names": list(class_names),
        "count": 100,
        "digest": "0" * 64,
    }
    header = Header(config.model_dump(mode="json"), facts, 7, "0.9999", "pretrain")
    save_weights(path, weights, header)
    return path
