"""Training gives the same bits again, at a size where two threads share the work of one step.

With the tiny tensors of other tests everything runs on one thread, and a sum whose order depends
on the threads goes unnoticed.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Note
from tests.services.training_kit import digests, make_cache, make_images, run, small

# 32 x 32 pixels in patches of 2: 256 tokens, at size/tiny and 16 images a step.
SETTINGS = (
    "model.patch_size=2",
    "training.batch_size=16",
    "training.steps=4",
    "optimizer.lr=1e-3",
    "lr_schedule.warmup=0",
    "checkpoint.every=2",
    "validation.every=0",
    "preview.every=0",
    "data.held_out=0",
    # As wide as the network, or two recipes take minutes.
    "model.narrow_decoder.hidden_size=96",
    "model.narrow_decoder.num_heads=3",
)
RECIPES = (
    *("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "lmd lmd-classify", "uvit"),
    *("tread", "tread-mean", "drop", "deferred"),
)
LAST = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeats")
    return make_cache(folder / "cache", make_images(folder / "images", size=32), size=32)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_and_a_resumed_run_repeat_to_the_bit(
    cache: Path, tmp_path: Path, recipe: str
) -> None:
    loaded = load_config([*recipe.split(), "size/tiny"], SETTINGS)
    first, second, resumed = (tmp_path / name for name in ("first", "second", "resumed"))
    run(cache, first, loaded)
    run(cache, second, loaded)
    # As a kill after step 2 leaves it: the log is ahead of the newest checkpoint.
    shutil.copytree(second, resumed)
    shutil.rmtree(resumed / "checkpoints" / f"step-{LAST:07d}")
    events = run(cache, resumed, loaded)
    assert any(isinstance(e, Note) and "at step 2" in e.text for e in events)
    expected = digests(first, LAST)
    assert len(expected) >= 2
    assert digests(second, LAST) == expected
    assert digests(resumed, LAST) == expected


def recorded(folder: Path) -> str:
    lines = (folder / "config.toml").read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("deterministic"))


def test_a_run_records_whether_it_repeats_and_keeps_it(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(1, "checkpoint.every=1"))
    assert recorded(folder).split() == ["deterministic", "=", "true", "#", "auto,", "on", "cpu"]
    assert torch.are_deterministic_algorithms_enabled()

    run(cache, folder, small(2, "checkpoint.every=1", "training.deterministic=false"))
    assert recorded(folder).startswith("deterministic = false")
    assert "# changed after step 1: training.deterministic: True -> False" in (
        folder / "config.toml"
    ).read_text("utf-8")
    assert not torch.are_deterministic_algorithms_enabled()

    # Without the key the run stays what it became.
    run(cache, folder, small(3, "checkpoint.every=1"))
    assert recorded(folder).startswith("deterministic = false")
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_of_a_version_without_the_key_is_resumed(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(1, "checkpoint.every=1"))
    config = folder / "config.toml"
    lines = config.read_text("utf-8").splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("deterministic")))
    run(cache, folder, small(2, "checkpoint.every=1"))
    assert recorded(folder).startswith("deterministic = true")
    assert (folder / "checkpoints" / "step-0000002").is_dir()


def test_determinism_is_true_false_or_auto() -> None:
    with pytest.raises(MdtError, match="deterministic"):
        load_config(["dit"], ["training.deterministic=sometimes"])
