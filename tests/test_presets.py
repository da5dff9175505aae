"""Every preset and every preset x size loads, says what it is, and builds."""

import pytest
import torch

from mdt_cli.config import presets
from mdt_cli.config.load import load_config
from mdt_cli.services.build.masking import build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.objective import build_loss

NAMES = presets.names()
SIZES = [name for name in NAMES if name.startswith("size/")]
RECIPES = [
    *("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "uvit", "tread", "drop"),
    "quickstart",
    "deferred",
    "tread-ddpm",
    "tread-mean",
    *("lightningdit", "jit"),
]
STAGES = [
    *("maskdit-finetune", "maskdit-finetune-cos", "mcdit-finetune", "maskdm-finetune"),
    "lmd-classify",
]
OVERLAYS = ["unmasked", "cifar10", "digits", "modern"]
OF_LMD = ["lmd-code", "lmd-piecewise", "lmd-uniform", "lmd-constant"]


def test_nothing_is_missing() -> None:
    assert {
        *RECIPES,
        *STAGES,
        *OVERLAYS,
        *OF_LMD,
        "digits-finetune",
        "size/tiny",
        "size/xl",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_what_it_is(name: str) -> None:
    preset = presets.read_preset(name)
    assert len(preset.about) > 40
    if not name.startswith("size/"):
        for word in ("Command:", "Verified:", "Expected"):
            assert word in preset.about


@pytest.mark.parametrize("name", SIZES)
def test_sizes_hold_only_model_keys(name: str) -> None:
    assert list(presets.read_preset(name).keys) == ["model"]


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_at_every_size(recipe: str, size: str, overlay: str | None) -> None:
    names = [recipe, size] + ([overlay] if overlay else [])
    config = load_config(names, []).config
    with torch.device("meta"):
        network = build_network(config, (4, 32, 32), 10)
    assert build_views(config)
    learned = recipe in ("dit", "mdt", "mdtv2", "tread-ddpm", "tread-mean", "drop")
    assert build_loss(config.objective).out_multiplier == (2 if learned else 1)
    is_masked = overlay != "unmasked" and recipe not in ("dit", "uvit", "lightningdit", "jit")
    assert (network.route is not None) == is_masked
