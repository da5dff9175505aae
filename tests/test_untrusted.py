"""Checkpoints of other programs: read without running them, refused with a sentence."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.artifacts.weights import Header, save_weights
from mdt_cli.errors import MdtError
from mdt_cli.untrusted import read_foreign


class _Malicious:
    """Unpickling it runs a command that makes `trap`."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trap}",)


def write_malicious(path: Path, trap: Path, how: str) -> None:
    held = {"weight": torch.zeros(4), "evil": _Malicious(trap)}
    match how:
        case "zip":
            torch.save(held, path)
        case "legacy":
            torch.save(held, path, _use_new_zipfile_serialization=False)
        case _:
            path.write_bytes(pickle.dumps({"evil": _Malicious(trap)}, protocol=int(how)))


@pytest.mark.parametrize("how", ["zip", "legacy", "0", "2", "4", "5"])
def test_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    trap = tmp_path / "trap"
    write_malicious(tmp_path / "evil.pt", trap, how)
    with pytest.raises(MdtError, match=r"it refers to (posix|os|nt)\.system, which may run code"):
        read_foreign(tmp_path / "evil.pt")
    assert not trap.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    """The file of the test above does run code in the hands of plain pickle."""
    trap = tmp_path / "trap"
    write_malicious(tmp_path / "evil.pt", trap, "2")
    pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_namespace_is_allowed_and_nothing_beside_it(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "held.pt"
    arguments = argparse.Namespace(model="DiT-S/2", lr=1e-4)
    held = {"model": {"w": torch.arange(3.0)}, "args": arguments}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    again = read_foreign(path)
    assert again["args"] == arguments
    torch.testing.assert_close(again["model"]["w"], torch.arange(3.0), rtol=0, atol=0)
    held["args"] = argparse.Namespace(folder=Path("x"))
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(MdtError, match=r"it refers to pathlib\.\w*Path"):
        read_foreign(path)
    with torch.serialization.safe_globals([type(Path("x"))]):
        # What another part of the program allowed for itself is not allowed here.
        with pytest.raises(MdtError, match=r"it refers to pathlib\.\w*Path"):
            read_foreign(path)
        assert type(Path("x")) in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_file_cut_short(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"w": torch.zeros(3000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MdtError, match="is damaged or cut short"):
        read_foreign(path)


def test_a_safetensors_file_cut_short_or_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(300)}, path)
    assert read_foreign(path)["w"].sum() == 300
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MdtError, match="is not an intact safetensors file"):
        read_foreign(path)
    save_weights(path, {"w": torch.ones(3)}, Header({}, {}, 1, "online", "pretrain"))
    with pytest.raises(MdtError, match="was written by mdt and needs no import"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a checkpoint saved by torch"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a checkpoint saved by torch"),
        (b"<!DOCTYPE html><html></html>", "is not a checkpoint saved by torch"),
        (bytes(range(256)) * 20, "is not a checkpoint saved by torch"),
        (pickle.dumps({"a": 1}, protocol=4), "a pickle of a protocol that cannot be read safely"),
    ],
    ids=["empty", "pointer", "page", "noise", "pickle"],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "held.pt"
    path.write_bytes(content)
    with pytest.raises(MdtError, match=sentence):
        read_foreign(path)


def test_other_zips_missing_files_and_folders(tmp_path: Path) -> None:
    import numpy as np

    with (tmp_path / "array.pt").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(MdtError, match="is not a checkpoint saved by torch"):
        read_foreign(tmp_path / "array.pt")
    with pytest.raises(MdtError, match="no such file"):
        read_foreign(tmp_path / "none.pt")
    with pytest.raises(MdtError, match="is a folder"):
        read_foreign(tmp_path)
