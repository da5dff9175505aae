"""Every container of official weights gives the same tensors; which ones, and at which step."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.errors import MdtError
from mdt_cli.services.importing.container import Contents, unpack
from mdt_cli.untrusted import read_foreign

EMA = {"blocks.0.w": torch.arange(3.0), "pos_embed": torch.ones(1, 4, 2)}
ONLINE = {name: tensor + 1 for name, tensor in EMA.items()}


def prefixed(state: dict, *prefixes: str) -> dict:
    for prefix in reversed(prefixes):
        state = {prefix + name: tensor for name, tensor in state.items()}
    return state


def unpacked(path: Path, held: object, asked: str | None = None, inside: str = "") -> Contents:
    torch.save(held, path)
    return unpack(read_foreign(path), path, asked, inside)


def same(contents: Contents, state: dict) -> bool:
    found = contents.tensors
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize(
    "prefixes",
    [
        (),
        ("module.",),
        ("_orig_mod.",),
        ("module.", "_orig_mod."),
        ("_orig_mod.", "module."),
        ("module.", "model.", "_orig_mod."),
        ("_orig_mod.", "model.", "module."),
        ("model.",),
    ],
    ids="".join,
)
def test_wrappers_in_any_nesting(tmp_path: Path, prefixes: tuple[str, ...]) -> None:
    contents = unpacked(tmp_path / "a.pt", prefixed(EMA, *prefixes), inside="model.")
    assert same(contents, EMA)
    assert contents.which is None


def test_the_average_is_taken_unless_asked_otherwise(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"step": torch.tensor(7000.0)}}, "param_groups": []}
    held = {"model": prefixed(ONLINE, "module."), "ema": EMA, "opt": optimizer}
    held["args"] = argparse.Namespace(model="DiT-S/2", num_classes=1000)
    contents = unpacked(tmp_path / "0050000.pt", held)
    assert same(contents, EMA)
    assert (contents.which, contents.offered) == ("ema", ("ema", "online"))
    assert (contents.step, contents.step_from) == (7000, "optimizer state in the file")
    assert contents.arguments["num_classes"] == 1000
    assert same(unpacked(tmp_path / "0050000.pt", held, "online"), ONLINE)
    assert unpacked(tmp_path / "0050000.pt", held, "online").which == "online"


def test_a_file_with_one_set_of_two(tmp_path: Path) -> None:
    assert same(unpacked(tmp_path / "a.pt", {"ema": prefixed(EMA, "model.")}, None, "model."), EMA)
    only = {"model": ONLINE, "epoch": 3}
    assert unpacked(tmp_path / "a.pt", only).which == "online"
    with pytest.raises(MdtError, match="has no ema weights"):
        unpacked(tmp_path / "a.pt", only, "ema")
    assert same(unpacked(tmp_path / "a.pt", {"state_dict": ONLINE}), ONLINE)


def test_flat_files_are_what_they_are_asked_to_be_or_called(tmp_path: Path) -> None:
    for name, which, step in (
        ("ema_0.9999_400000.pt", "ema", 400_000),
        ("model400000.pt", "online", 400_000),
        ("2000000.pt", None, 2_000_000),
        ("mdt_xl2_v1_ckpt.pt", None, None),
    ):
        contents = unpacked(tmp_path / name, EMA)
        assert (contents.which, contents.step) == (which, step)
        assert same(contents, EMA)
    assert unpacked(tmp_path / "flat.pt", EMA, "online").which == "online"


def test_maskdm_keeps_both_in_its_average(tmp_path: Path) -> None:
    betas = torch.linspace(1e-4, 2e-2, 10)
    pair = prefixed(EMA, "ema_model.model.") | prefixed(ONLINE, "online_model.model.")
    pair |= {"ema_model.betas": betas, "initted": torch.tensor([True]), "step": torch.tensor([5])}
    online = prefixed({k: v + 1 for k, v in ONLINE.items()}, "model.")
    held = {"step": 12, "model": online, "ema": pair, "opt": {}, "scaler": None}
    contents = unpacked(tmp_path / "a.pt", held, None, "model.")
    assert same(contents, EMA)
    torch.testing.assert_close(contents.beside["betas"], betas)
    assert contents.step == 12
    # The online weights are those of the trainer, not the copy inside the average.
    assert same(
        unpacked(tmp_path / "a.pt", held, "online", "model."),
        {name: tensor + 1 for name, tensor in ONLINE.items()},
    )
    del held["model"]
    assert same(unpacked(tmp_path / "a.pt", held, "online", "model."), ONLINE)


def test_safetensors_are_flat_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(prefixed(EMA, "module.", "model."), path)
    assert same(unpack(read_foreign(path), path, None, "model."), EMA)


@pytest.mark.parametrize(
    ("held", "asked", "sentence"),
    [
        (3, None, "contains a int, not a state dict"),
        ([torch.zeros(2)], None, "contains a list, not a state dict"),
        ({"lr": 1e-4}, None, "contains no tensors"),
        ({}, None, "contains no tensors"),
        (EMA, "emma", "--weights emma: no such weights; did you mean ema"),
        ({**EMA, "module.pos_embed": torch.ones(2)}, None, "has pos_embed twice"),
    ],
    ids=["number", "list", "no tensors", "empty", "word", "twice"],
)
def test_what_holds_no_weights(tmp_path: Path, held: object, asked: str, sentence: str) -> None:
    with pytest.raises(MdtError, match=sentence):
        unpacked(tmp_path / "a.pt", held, asked)
