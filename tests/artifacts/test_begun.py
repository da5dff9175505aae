"""A run that an earlier version began keeps its settings where a preset has changed since."""

from pathlib import Path
from typing import Any

import pytest

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.begun_run import as_begun, settings_of
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.config.run import RunConfig
from mdt_cli.errors import MdtError

NOW = ("mdtv2", "size/tiny")


def began(run: Path, presets: tuple[str, ...], words: tuple[str, ...], **before: Any) -> Path:
    """A run folder as a version wrote it whose presets set other values: table__key=value."""
    loaded = load_config(presets, words)
    tree = loaded.config.model_dump(mode="json")
    for name, value in before.items():
        table, key = name.split("__")
        tree[table][key] = value
    run.mkdir()
    config = RunConfig.model_validate(tree)
    run_folder.write(run, Loaded(config, loaded.sources), "pretrain", 0)
    return run


def resumed(run: Path, presets: tuple[str, ...], *words: str) -> tuple[RunConfig, list[str]]:
    loaded, kept = as_begun(run, settings_of(run, presets, words), 0)
    assert not run_folder.check(run, loaded, 0, "pretrain")
    return loaded.config, kept


def test_a_key_that_the_preset_changed_keeps_the_value_of_the_run(tmp_path: Path) -> None:
    run = began(tmp_path / "run", NOW, (), optimizer__lr=1e-3, masking__fill="mask_token")
    config, kept = resumed(run, NOW)
    assert (config.optimizer.lr, config.masking.fill) == (1e-3, "mask_token")
    assert kept == ["masking.fill: mask_token", "optimizer.lr: 0.001"]


def test_a_key_that_the_preset_gained_keeps_what_it_was_before(tmp_path: Path) -> None:
    old = {"kind": "uniform", "low": 0.3, "high": 0.5, "draw": "step"}
    run = began(tmp_path / "run", NOW, (), masking__ratio=old)
    text = (run / "config.toml").read_text("utf-8").replace(', draw = "step"', "")
    (run / "config.toml").write_text(text, "utf-8")
    config, kept = resumed(run, NOW)
    assert config.masking.ratio.draw == "step"  # type: ignore[union-attr]
    assert kept == ["masking.ratio.draw: step"]
    assert load_config(NOW, []).config.masking.ratio.draw == "micro_batch"  # type: ignore[union-attr]


def test_a_default_that_changed_keeps_what_it_was(tmp_path: Path) -> None:
    run = began(tmp_path / "run", ("dit",), (), sampling__spacing="ends")
    assert resumed(run, ("dit",))[0].sampling.spacing == "ends"
    loaded, kept = as_begun(run, load_config(("dit",), ()), 0)
    assert (loaded.config.sampling.spacing, kept) == ("ends", ["sampling.spacing: ends"])


def test_another_objective_of_the_same_preset(tmp_path: Path) -> None:
    """What a run of version 0.1 sees that was begun with its `tread`."""
    loaded = load_config(("tread-ddpm", "size/tiny"), ())
    run = tmp_path / "run"
    run.mkdir()
    sources = {key: who.replace("tread-ddpm", "tread") for key, who in loaded.sources.items()}
    run_folder.write(run, Loaded(loaded.config, sources), "pretrain", 0)
    config, kept = resumed(run, ("tread", "size/tiny"))
    assert config == loaded.config
    assert "objective.kind: epsilon" in kept
    # Once more: the folder was written again by this version.
    again, _ = as_begun(run, settings_of(run, ("tread", "size/tiny"), ()), 0)
    run_folder.write(run, again, "pretrain", 0)
    assert resumed(run, ("tread", "size/tiny"))[0] == loaded.config
    # The name that these settings have now says the same.
    assert resumed(run, ("tread-ddpm", "size/tiny")) == (loaded.config, [])


def test_a_key_set_by_hand_is_the_users(tmp_path: Path) -> None:
    run = began(tmp_path / "run", NOW, ("optimizer.eps=1e-7",))
    assert resumed(run, NOW)[0].optimizer.eps == 1e-7
    loaded, kept = as_begun(run, load_config(NOW, ()), 0)
    assert not kept
    with pytest.raises(MdtError, match=r"optimizer\.eps"):
        run_folder.check(run, loaded, 0, "pretrain")


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (("mdtv2",), ("mdtv2", "size/tiny"), ()),
        (("mdtv2", "size/tiny"), ("mdtv2",), ()),
        (("mdtv2",), ("mdt",), ()),
        (("mdtv2",), ("mdtv2",), ("data.flip=false",)),
        (("mdtv2", "digits", "cifar10"), ("mdtv2", "cifar10", "digits"), ()),
    ],
)
def test_other_presets_or_keys_are_another_run(
    tmp_path: Path, then: tuple[str, ...], now: tuple[str, ...], words: tuple[str, ...]
) -> None:
    run = began(tmp_path / "run", then, ())
    loaded, kept = as_begun(run, load_config(now, words), 0)
    assert not kept
    with pytest.raises(MdtError, match="another configuration"):
        run_folder.check(run, loaded, 0, "pretrain")


def test_a_preset_file_of_the_user_may_not_change_on_the_way(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data]\nflip = true\n", "utf-8")
    run = began(tmp_path / "run", (str(file),), ())
    file.write_text("[data]\nflip = false\n", "utf-8")
    loaded, kept = as_begun(run, settings_of(run, (str(file),), ()), 0)
    assert not kept
    with pytest.raises(MdtError, match=r"data\.flip"):
        run_folder.check(run, loaded, 0, "pretrain")


def test_what_may_change_changes_and_the_rest_is_kept(tmp_path: Path) -> None:
    run = began(tmp_path / "run", NOW, (), masking__fill="mask_token")
    config, _ = resumed(run, NOW, "training.steps=7", "log.every=3")
    assert (config.training.steps, config.log.every) == (7, 3)
    assert config.masking.fill == "mask_token"
    assert as_begun(run, settings_of(run, NOW, ()), 2)[1] == []
