"""Weights files of tiny networks with random, nowhere zero, parameters."""

from pathlib import Path
from typing import Any

import torch

from mdt_cli.artifacts.checkpoint import CheckpointState, write_checkpoint
from mdt_cli.artifacts.weights import Header, read_header, read_tensors, save_weights
from mdt_cli.config.load import load_config
from mdt_cli.config.write import to_toml
from mdt_cli.services.build.network import build_network

TINY = ("model.hidden_size=32", "model.num_heads=2")
PIXELS = {"name": "pixels"}
NAMES = ("cat", "dog", "owl")

MDTV2 = (
    ("mdtv2",),
    (*TINY, "model.depth=6", "model.decoder_depth=2", "masking.restore_at=-2", "sampling.steps=4"),
)
DIGITS = (("quickstart", "digits"), (*TINY, "model.depth=2", "sampling.steps=3"))
DIT = (("dit",), (*TINY, "model.depth=3", "sampling.steps=5"))
EDM = (
    ("dit",),
    (*TINY, "model.depth=2", "objective.kind=edm", "sampling.solver=heun", "sampling.steps=3"),
)
MODERN = (
    ("mdtv2", "modern"),
    (
        *(*TINY, "model.depth=6", "model.decoder_depth=2", "masking.restore_at=-2"),
        *("sampling.steps=4", "model.patch_bottleneck=6", "model.class_tokens=2"),
    ),
)
INTERNAL = (
    ("dit", "modern"),
    (
        *(*TINY, "model.depth=4", "model.early_head_at=2", "objective={kind='flow', predict='x'}"),
        *("sampling.solver=heun", "sampling.steps=3"),
        "sampling.guidance={kind='internal', scale=1.5, cfg_scale=2.0, cfg_high=5}",
    ),
)


def weights_file(
    path: Path,
    recipe: tuple[tuple[str, ...], tuple[str, ...]],
    latent_shape: tuple[int, int, int] = (3, 8, 8),
    names: tuple[str, ...] = NAMES,
    codec: dict[str, Any] = PIXELS,
    image_size: int = 8,
) -> Path:
    """Write weights as training does, the parts of masked training included."""
    config = load_config(*recipe).config
    network = build_network(config, latent_shape, len(names))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(p.shape, generator=generator) * 0.3 / max(1, p.shape[-1]) ** 0.5
        for name, p in network.named_parameters()
    }
    facts = {
        "codec": codec,
        "latent_shape": list(latent_shape),
        "image_size": image_size,
        "num_classes": len(names),
        "class_names": list(names),
        "count": 12,
        "digest": "0" * 64,
    }
    header = Header(config.model_dump(mode="json"), facts, 7, "0.99", "pretrain")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, tensors, header)
    return path


def run_of(folder: Path, recipe: tuple[tuple[str, ...], tuple[str, ...]]) -> Path:
    """A run folder with one checkpoint, as training leaves it."""
    folder.mkdir(parents=True)
    source = weights_file(folder / "w.safetensors", recipe)
    header, tensors = read_header(source), read_tensors(source)
    source.unlink()
    (folder / "config.toml").write_text("# pretrain\n" + to_toml(load_config(*recipe)))
    write_checkpoint(
        folder / "checkpoints" / "step-0000007",
        Header(header.config, header.data, 7, "online", "pretrain"),
        tensors,
        dict.fromkeys(load_config(*recipe).config.ema.names, tensors),
        {"0/exp_avg": torch.ones(2)},
        CheckpointState(7, 64, 0, None, "abc"),
    )
    return folder
