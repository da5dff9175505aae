"""Extractors from files: TorchScript and exported programs."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors.build import build_extractor, extract_batch
from tests.pictures import array

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Colours(nn.Module):
    """Mean and greatest value of each channel: six features that say what came in."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Map(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x


def script(module: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(file))
    return file


def export(module: nn.Module, file: Path, free: bool = True) -> Path:
    example = torch.zeros(3, 3, 16, 16)
    axes = {0: torch.export.Dim("batch")} if free else None
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=(axes,)), file)
    return file


@pytest.mark.parametrize("write", [script, export])
def test_a_module_sees_the_pixels_as_they_are(write: object, tmp_path: Path) -> None:
    assert callable(write)
    file = write(Colours(), tmp_path / ("net.pt" if write is script else "net.pt2"))
    extractor = build_extractor(file, CPU, image_size=(16, 16))
    assert extractor.name == f"net-{sha256_of(file)[:8]}"
    assert (extractor.dimensions, extractor.resize, extractor.head_CD) == (6, "none", None)
    picture = array(0)
    found = extract_batch(extractor, torch.from_numpy(extractor.prepare(picture))[None])
    expected = [*picture.mean((0, 1)), *picture.max((0, 1))]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_pooled_maps_of_one_place_are_flattened(tmp_path: Path) -> None:
    extractor = build_extractor(script(Pooled(), tmp_path / "p.pt"), CPU)
    assert extract_batch(extractor, torch.ones(2, 3, 8, 8)).tolist() == [[1, 1, 1]] * 2


def test_two_files_of_one_name_are_two_metrics(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = build_extractor(script(Colours(), tmp_path / "a" / "net.pt"), CPU)
    other = build_extractor(script(Pooled(), tmp_path / "b" / "net.pt"), CPU)
    assert one.name != other.name


@pytest.mark.parametrize("suffix", ["pt", "pt2"])
def test_what_is_no_module_is_told(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"net.{suffix}"
    with pytest.raises(MdtError, match=r"no such file: .*\(set by --extractor\)"):
        build_extractor(file, CPU)
    file.write_bytes(b"something else")
    with pytest.raises(MdtError, match=r"neither TorchScript .* nor an exported program"):
        build_extractor(file, CPU)
    whole = script(Colours(), tmp_path / "whole.pt") if suffix == "pt" else None
    whole = whole or export(Colours(), tmp_path / "whole.pt2")
    file.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(MdtError, match=r"neither TorchScript .* nor an exported program"):
        build_extractor(file, CPU)


def test_answers_and_inputs_of_another_kind_are_told(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match=r"map.pt returns \[2, 3, 16, 16\]") as told:
        build_extractor(script(Map(), tmp_path / "map.pt"), CPU, image_size=(16, 16))
    assert told.value.hint == "a module takes float32 [B,3,H,W] in 0..255 and returns [B,D]"
    with pytest.raises(MdtError, match=r"several.pt returns tuple"):
        build_extractor(script(Several(), tmp_path / "several.pt"), CPU)
    fixed = export(Colours(), tmp_path / "fixed.pt2", free=False)
    with pytest.raises(MdtError, match=r"fixed.pt2 refuses images of \[2, 3, 16, 16\]") as told:
        build_extractor(fixed, CPU, image_size=(16, 16))
    assert told.value.hint is not None
    assert "leave the batch size free" in told.value.hint
    grey = script(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten()), tmp_path / "grey.pt")
    with pytest.raises(MdtError, match=r"grey.pt refuses images of \[2, 3, 64, 64\]"):
        build_extractor(grey, CPU)
