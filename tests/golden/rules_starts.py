"""Starting weights and first steps: what the official code begins with, and what ours does."""

from collections.abc import Sequence

import torch

from mdt_cli.config.load import load_config
from mdt_cli.services.build.network import build_network
from tests.golden.rules import Rule


def patch_start(preset: str, shape: tuple[int, int, int], *keys: str) -> Sequence[float]:
    """Of the patch convolution: std of the weight, of the bias, and of embedded noise."""
    config = load_config([preset], list(keys)).config
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        conv = build_network(config, shape, 0).patches.conv
        noise = torch.randn(64, *shape, generator=torch.Generator().manual_seed(1))
        assert conv.bias is not None
        return [float(x.std()) for x in (conv.weight, conv.bias, conv(noise))]


RULES = (
    Rule(
        "U-ViT",
        "start of the patch convolution of H/2: std of weight, bias, embedded noise",
        "0.041, 0, 0.165",
        (0.1443, 0.1425, 0.5956),
        lambda: patch_start(
            "uvit", (4, 32, 32), "model.hidden_size=1152", "model.depth=1", "model.num_heads=16"
        ),
        within=0.03,
    ),
    Rule(
        "MaskDM",
        "the same of small, 64 px",
        "0.060, 0, 0.413",
        (0.0833, 0.0807, 0.5840),
        lambda: patch_start("maskdm", (3, 64, 64), "model.depth=1"),
        within=0.05,
    ),
    Rule(
        "LMD",
        "the same of base, patch 4 (only the bias is torch's own)",
        "0.049, 0, 0.393",
        (0.0491, 0.0736, 0.4000),
        lambda: patch_start(
            "lmd",
            (4, 28, 28),
            *("model.patch_size=4", "model.depth=1", "model.narrow_decoder.depth=1"),
        ),
        within=0.03,
    ),
)
