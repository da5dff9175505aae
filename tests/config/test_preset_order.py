"""A recipe comes first and alone; what would be lost without a word is refused."""

from pathlib import Path

import pytest

from mdt_cli.config import presets
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError


def test_every_preset_says_what_it_is() -> None:
    for name in presets.names():
        role = presets.read_preset(name).role
        assert role in presets.ROLES, name
        assert (role == presets.SIZE) == name.startswith("size/")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("mdtv2 dit", "-p mdtv2 and -p dit are 2 recipes"),
        ("mdtv2 size/tiny maskdit cifar10", "-p mdtv2 and -p maskdit are 2 recipes"),
        ("mdtv2 size/s size/b", "-p size/s and -p size/b are 2 sizes"),
        ("cifar10 mdtv2", "recipe mdtv2 comes after -p cifar10"),
        ("size/tiny lmd", "recipe lmd comes after -p size/tiny"),
        ("modern digits mdt", "recipe mdt comes after -p modern"),
        ("unmasked mdtv2", "recipe mdtv2 comes after -p unmasked"),
        ("mdtv2 cifar10 mdtv2", "recipe mdtv2 comes after -p cifar10"),
    ],
)
def test_what_would_be_lost_is_refused(names: str, said: str) -> None:
    with pytest.raises(MdtError, match=said) as caught:
        load_config(names.split(), [])
    hint = str(caught.value.hint)
    if "comes first: " in hint:
        right = hint.partition("comes first: ")[2].replace("-p ", "").split()
        assert load_config(right, []).has_recipe


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    plain, copy = tmp_path / "own.toml", tmp_path / "copy.toml"
    plain.write_text("[training]\nsteps = 7\n")
    copy.write_text(presets.read_preset("dit").path.read_text())
    assert load_config(["mdtv2", str(plain)], []).config.training.steps == 7
    assert load_config([str(plain), "digits"], []).has_recipe
    with pytest.raises(MdtError, match="comes after"):
        load_config([str(plain), "mdtv2"], [])
    with pytest.raises(MdtError, match="are 2 recipes"):
        load_config(["mdtv2", str(copy)], [])
    plain.write_text('role = "recipie"\n')
    with pytest.raises(MdtError, match='has the role "recipie"'):
        load_config([str(plain)], [])


def test_overlays_alone_are_no_recipe() -> None:
    assert not load_config(["digits", "size/tiny"], ["training.steps=3"]).has_recipe
    assert not load_config([], ["training.steps=3"]).has_recipe
    assert load_config(["mdtv2"], []).has_recipe
