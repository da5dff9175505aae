"""A run resumes with its own settings, and says what a start changes or what starts unnamed."""

from pathlib import Path

import pytest

from mdt_cli.artifacts.begun_run import settings_of
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Note, Warned
from mdt_cli.services.train.settings import pretrain_config
from tests.services.training_kit import SMALL, digests, make_cache, make_images, run, small


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    return make_cache(folder / "cache", make_images(folder / "images"))


def said(events: list[object]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note | Warned)]


def test_a_run_resumes_with_nothing_but_its_name(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(3, "log.every=2"))
    before = (tmp_path / "run" / "config.toml").read_text()
    loaded = pretrain_config(tmp_path / "run", [], [])
    run(cache, tmp_path / "run", loaded)
    assert (tmp_path / "run" / "config.toml").read_text() == before
    assert loaded.source("optimizer.lr") == "--set optimizer.lr=1e-3"
    assert loaded.source("masking.ratio") == "preset mdtv2"
    assert loaded.source("log.wandb") == "default"
    run(cache, tmp_path / "run", pretrain_config(tmp_path / "run", [], ["training.steps=5"]))
    run(cache, tmp_path / "plain", small(5, "log.every=2"))
    assert digests(tmp_path / "run", 5) == digests(tmp_path / "plain", 5)


def test_what_differs_is_named(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(3))
    notes = said(run(cache, tmp_path / "run", small(4, "log.every=2", "preview.steps=3")))
    for text in ("training.steps: 3 -> 4", "log.every: 1 -> 2", "preview.steps: 25 -> 3"):
        assert any(f"other than in this run before: {text}" in note for note in notes)
    again = said(run(cache, tmp_path / "run", small(4, "log.every=2", "preview.steps=3")))
    assert not any("other than" in note for note in again)
    with pytest.raises(MdtError, match=r"training\.seed: 0 in the run, 1 now") as caught:
        run(cache, tmp_path / "run", settings_of(tmp_path / "run", [], ["training.seed=1"]))
    assert "leave out -p and --set" in str(caught.value.hint)


def test_a_new_run_needs_a_preset(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="no preset was given"):
        pretrain_config(tmp_path / "run", [], [])


def test_a_run_that_began_in_another_order_goes_on(cache: Path, tmp_path: Path) -> None:
    words = [*SMALL, "training.steps=2"]
    run(cache, tmp_path / "run", load_config(["size/tiny", "mdtv2"], words, any_order=True))
    words[-1] = "training.steps=3"
    run(cache, tmp_path / "run", pretrain_config(tmp_path / "run", ["size/tiny", "mdtv2"], words))
    with pytest.raises(MdtError, match="comes after -p size/tiny"):
        pretrain_config(tmp_path / "new", ["size/tiny", "mdtv2"], words)


def test_without_a_recipe_three_lines_say_what_starts(cache: Path, tmp_path: Path) -> None:
    words = [text for text in SMALL if "decoder_depth" not in text and "masking" not in text]
    loaded = pretrain_config(tmp_path / "run", [], [*words, "training.steps=5"])
    first, second, third = said(run(cache, tmp_path / "run", loaded))[:3]
    assert "no recipe was named" in first
    assert "4 blocks of width 16" in first
    assert "no token masked" in second
    assert "adamw at learning rate 0.001 (constant)" in second
    assert third.startswith("for 5 steps of 8 images: 40 images, 1.0 passes over this cache of 40")
    assert not any("no recipe" in text for text in said(run(cache, tmp_path / "run", loaded)))
    assert not any("no recipe" in text for text in said(run(cache, tmp_path / "named", small(1))))
