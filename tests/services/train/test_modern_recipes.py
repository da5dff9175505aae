"""Every recipe with modern blocks: it learns, resumes to the bit and samples."""

from pathlib import Path

import pytest

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
