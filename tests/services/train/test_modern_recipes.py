"""Every recipe with modern blocks: it learns, resumes to the bit and samples."""

import json
from pathlib import Path

import pytest

from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.config.load import Loaded, load_config
from tests.services.train.test_recipes import (
    RECIPES,
    STEPS,
    check_learning,
    check_pictures,
    cut_short,
    settings,
)
from tests.services.training_kit import digests, make_cache, make_images, run

NETWORK = ("model.hidden_size=32", "model.num_heads=2", "model.depth=8", "sampling.steps=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images in two classes, of which 4 are held out."""
    folder = tmp_path_factory.mktemp("modern")
    return make_cache(folder / "cache", make_images(folder / "images", per_class=40))


def configuration(recipe: str) -> Loaded:
    own = ["model.decoder_depth=2", "masking.restore_at=-2"] if recipe.startswith("mdt") else []
    # Extra tokens beside the modulation, and a narrow map of patches.
    extra = [] if recipe in ("uvit", "maskdm", "lmd") else ["model.class_tokens=2"]
    parts = [*NETWORK, *own, *extra, "model.patch_bottleneck=8"]
    return load_config([recipe, "modern"], settings(recipe, *parts))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_modern_blocks_learns_resumes_and_samples(
    recipe: str, cache: Path, tmp_path: Path
) -> None:
    loaded, straight = configuration(recipe), tmp_path / "straight"
    check_learning(run(cache, straight, loaded))
    parts = cut_short(straight, tmp_path / "parts")
    run(cache, parts, loaded)
    assert digests(parts, STEPS) == digests(straight, STEPS)
    if recipe != "lmd":
        check_pictures(straight, tmp_path / "images")


@pytest.mark.parametrize("recipe", ["mdtv2", "maskdit", "drop", "tread"])
def test_an_early_head_learns_resumes_and_guides(recipe: str, cache: Path, tmp_path: Path) -> None:
    own = ["model.decoder_depth=2", "masking.restore_at=-2"] if recipe == "mdtv2" else []
    keys = [*NETWORK, *own, "model.early_head_at=2", "sampling.guidance={kind='internal'}"]
    loaded, straight = load_config([recipe], settings(recipe, *keys)), tmp_path / "straight"
    check_learning(run(cache, straight, loaded))
    parts = cut_short(straight, tmp_path / "parts")
    run(cache, parts, loaded)
    assert digests(parts, STEPS) == digests(straight, STEPS)
    weights = read_tensors(straight / "checkpoints" / f"step-{STEPS:07d}" / "weights.safetensors")
    assert weights["early_head.linear.weight"].abs().max() > 0
    logged, judged = (
        {key for line in (straight / name).read_text().splitlines() for key in json.loads(line)}
        for name in ("log.jsonl", "metrics.jsonl")
    )
    assert any("early" in name for name in logged)
    assert not any("early" in name for name in judged)
    check_pictures(straight, tmp_path / "images")
