"""Every preset in real runs: it learns, resumes bit for bit, and answers with pictures.

Twenty steps at size/tiny. The published learning rates are made for hundreds of thousands of
steps and would show nothing here, nor would their warm-up: both are set (`FAST`), nothing else of
a recipe is, but for patches of 4 pixels and a decoder as narrow as the network.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mdt_cli.artifacts.weights import read_tensors
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Note, SamplesDone, Validated
from mdt_cli.services.sample.sample import SampleRequest, sample
from mdt_cli.services.train.start import finetune, starting_config
from tests.services.sampled import pixels
from tests.services.training_kit import digests, make_cache, make_images, run

FAST = ("optimizer.lr=2e-3", "lr_schedule.warmup=0")
# Second stages start from trained weights with a fresh optimizer, whose first steps are large.
CALMER = "optimizer.lr=5e-4"
SMALL = (
    "model.patch_size=4",
    "model.narrow_decoder.hidden_size=32",
    "model.narrow_decoder.num_heads=2",
    "training.batch_size=8",
    "data.held_out=4",
    "ema.decays=[0.9]",
    "log.every=5",
    "checkpoint.every=7",
    "preview.every=0",
    "validation.every=1",
)
# Only the network of a recipe has its own size; size/tiny fits all of them.
RECIPES = (
    *("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "uvit", "tread", "drop"),
    "deferred",
    "tread-mean",
)
STAGES = (
    ("maskdit", "maskdit-finetune"),
    ("maskdit", "maskdit-finetune-cos"),
    ("mcdit", "mcdit-finetune"),
    ("maskdm", "maskdm-finetune"),
    ("mdtv2", "unmasked"),
    ("drop", "unmasked"),
)
STEPS, CUT = 20, 7


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pictures in two classes, of which 4 are held out."""
    folder = tmp_path_factory.mktemp("recipes")
    return make_cache(folder / "cache", make_images(folder / "images", per_class=40))


@dataclass
class Runs:
    """First stages and what was told while they trained, made when the first test asks for one."""

    cache: Path
    folder: Path
    events: dict[str, list[object]]

    def of(self, recipe: str) -> Path:
        target = self.folder / recipe
        if recipe not in self.events:
            self.events[recipe] = run(self.cache, target, configuration(recipe))
        return target


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(cache, tmp_path_factory.mktemp("runs"), {})


def settings(recipe: str, *more: str) -> list[str]:
    # MaskDM's blocks of 4 x 4 tokens are the whole picture here, and its average follows the
    # weights exactly for a hundred steps.
    blocks = ["masking.selector.size=2", "masking.ratio.value=0.5", "ema.warmup=none"]
    own = blocks if recipe == "maskdm" else []
    return [*SMALL, *FAST, *own, f"training.steps={STEPS}", *more]


def configuration(recipe: str) -> Loaded:
    return load_config([recipe, "size/tiny"], settings(recipe))


def cut_short(source: Path, target: Path) -> Path:
    """A copy of a run as it was after step 7; its schedules know all of its steps."""
    shutil.copytree(source, target)
    for step in (14, STEPS):
        shutil.rmtree(target / "checkpoints" / f"step-{step:07d}")
    assert digests(target, CUT)
    return target


def online(event: Validated) -> float:
    """The held-out loss at fixed times and noise, of every kind of pass, by the trained weights."""
    return sum(loss for name, loss in event.losses.items() if name.endswith("/online"))


def check_learning(events: list[object]) -> None:
    losses = [online(event) for event in events if isinstance(event, Validated)]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < sum(losses[:5])


def check_pictures(weights: Path, out: Path) -> None:
    request = SampleRequest(weights, out, seeds="0-2", steps=3, device="cpu")
    done = list(sample(request))[-1]
    assert isinstance(done, SamplesDone)
    pictures = [pixels(path) for path in sorted(out.glob("0*.png"))]
    assert len(pictures) == 3
    assert all(picture.shape == (16, 16, 3) and picture.std() > 0 for picture in pictures)
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("recipe", [*RECIPES, "quickstart"])
def test_a_recipe_learns_resumes_and_samples(
    recipe: str, cache: Path, runs: Runs, tmp_path: Path
) -> None:
    straight = runs.of(recipe)
    check_learning(runs.events[recipe])
    parts = cut_short(straight, tmp_path / "parts")
    run(cache, parts, configuration(recipe))
    assert digests(parts, STEPS) == digests(straight, STEPS)
    if recipe == "lmd":
        with pytest.raises(MdtError, match="restores masked images and cannot generate"):
            check_pictures(straight, tmp_path / "pictures")
    else:
        check_pictures(straight, tmp_path / "pictures")


@pytest.mark.parametrize(("recipe", "stage"), STAGES)
def test_a_last_stage_learns_resumes_and_samples(
    recipe: str, stage: str, cache: Path, runs: Runs, tmp_path: Path
) -> None:
    source, straight = runs.of(recipe), tmp_path / "straight"
    loaded = starting_config(source, None, [stage], settings("", CALMER))
    check_learning(list(finetune(cache, straight, source, None, loaded)))
    parts = cut_short(straight, tmp_path / "parts")
    list(finetune(cache, parts, source, None, loaded))
    assert digests(parts, STEPS) == digests(straight, STEPS)
    check_pictures(straight, tmp_path / "pictures")


def test_an_averaged_decoder_is_saved_and_goes_on(runs: Runs) -> None:
    """The digests of resumed runs are equal because it is part of the optimizer's file."""
    after = runs.of("mcdit") / "checkpoints"
    earlier, later = (
        read_tensors(after / f"step-{step:07d}" / "optimizer.safetensors") for step in (CUT, STEPS)
    )
    weights = read_tensors(after / f"step-{STEPS:07d}" / "weights.safetensors")
    names = [name for name in later if name.startswith("teacher/")]
    assert {name.split("/")[1].split(".")[0] for name in names} == {"patches", "narrow", "head"}
    moved = [name for name in names if not torch.equal(earlier[name], later[name])]
    assert len(moved) == len(names)
    for name in names:
        own = name.removeprefix("teacher/")
        trained = weights["fill." + own if own.startswith("patches.") else own]
        # 20 steps of decay 0.999 stay near the start.
        assert not torch.equal(later[name], trained)


def stage_of(runs: Runs, stage: str, *more: str) -> Loaded:
    return starting_config(runs.of("maskdm"), None, [stage], settings("", *more))


def test_maskdm_tunes_the_weights_as_they_were_trained(
    cache: Path, runs: Runs, tmp_path: Path
) -> None:
    loaded = stage_of(runs, "maskdm-finetune", "optimizer.lr=1e-30", "optimizer.weight_decay=0")
    events = list(finetune(cache, tmp_path / "run", runs.of("maskdm"), None, loaded))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("weights online" in note for note in notes)
    source = runs.of("maskdm") / "checkpoints" / f"step-{STEPS:07d}"
    online, average = (
        read_tensors(source / f"{name}.safetensors") for name in ("weights", "ema-0.9")
    )
    after = read_tensors(tmp_path / "run/checkpoints" / source.name / "weights.safetensors")
    assert after.keys() == online.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, online[name], rtol=1e-6, atol=1e-9)
    assert any((online[name] - average[name]).abs().max() > 1e-4 for name in online)


@pytest.mark.parametrize("recipe", ["dit", "uvit", "maskdit"])
def test_new_classes_start_the_label_table_afresh_and_nothing_else(
    recipe: str, runs: Runs, tmp_path: Path
) -> None:
    other = make_cache(tmp_path / "cache", make_images(tmp_path / "images", classes=3, per_class=4))
    source = runs.of(recipe)
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.steps=1")
    quiet = ("validation.every=0", "data.held_out=0")
    tables = [*settings(recipe), *still, *quiet]
    loaded = starting_config(source, "online", ["unmasked"], tables)
    with pytest.raises(
        MdtError, match=r"(?s)trained on other classes than the cache holds.*new_classes"
    ):
        list(finetune(other, tmp_path / "run", source, "online", loaded))
    assert not (tmp_path / "run").exists()
    loaded = starting_config(source, "online", ["unmasked"], [*tables, "training.new_classes=true"])
    events = list(finetune(other, tmp_path / "run", source, "online", loaded))
    notes = [event.text for event in events if isinstance(event, Note)]
    owner = "extras.label" if recipe == "uvit" else "label"
    assert any(note.startswith("added") and owner in note for note in notes)
    before = read_tensors(source / f"checkpoints/step-{STEPS:07d}/weights.safetensors")
    after = read_tensors(tmp_path / "run/checkpoints/step-0000001/weights.safetensors")
    table = f"{owner}.table.weight"
    assert len(after[table]) == (3 if recipe == "maskdit" else 4)
    assert len(before[table]) == len(after[table]) - 1
    assert not torch.isclose(after[table][:2], before[table][:2]).any(dim=1).any()
    rest = after.keys() - {table}
    assert rest == {name for name in before if name not in (table, "fill.mask_token")}
    for name in rest:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the size of the digits."""
    folder = tmp_path_factory.mktemp("digits")
    return make_cache(folder / "cache", make_images(folder / "images", size=8), size=8, flip=False)


@pytest.mark.parametrize("recipe", [*RECIPES, "quickstart"])
def test_the_digits_overlay_fits_every_recipe(recipe: str, digits: Path, tmp_path: Path) -> None:
    quiet = ("checkpoint.every=1", "preview.every=0", "validation.every=0", "training.batch_size=4")
    loaded = load_config([recipe, "digits"], ["training.steps=3", "log.every=1", *quiet])
    run(digits, tmp_path / "run", loaded)
    straight = digests(tmp_path / "run", 3)
    for step in (2, 3):
        shutil.rmtree(tmp_path / "run/checkpoints" / f"step-{step:07d}")
    run(digits, tmp_path / "run", loaded)
    assert digests(tmp_path / "run", 3) == straight
