import json
import sys
import types
from pathlib import Path

import pytest
import torch

from mdt_cli.errors import MdtError
from mdt_cli.services.evaluate.codec_quality import ReconstructionRequest, reconstruct
from mdt_cli.services.events import EvaluationDone, Note
from tests.autoencoders import save_autoencoder
from tests.pictures import png, write_folder


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "images", {f"{i}.png": png(i) for i in range(5)})


def run(images: Path, codec: str, **more: object) -> tuple[dict, list]:
    out = images.parent / "r.json"
    request = ReconstructionRequest(images, codec, out=out, device="cpu", **more)
    events = list(reconstruct(request))
    assert isinstance(events[-1], EvaluationDone)
    assert json.loads(out.read_text()) == events[-1].report
    return events[-1].report, events


def test_pixels_give_everything_back(images: Path) -> None:
    report, events = run(images, "pixels")
    assert list(report["metrics"]) == ["rfd_efficientnet_lite0", "psnr", "ssim"]
    assert report["metrics"]["rfd_efficientnet_lite0"]["value"] == pytest.approx(0, abs=1e-8)
    assert report["metrics"]["psnr"]["value"] is None
    assert report["metrics"]["psnr"]["identical"] == 5
    assert report["metrics"]["ssim"]["value"] == pytest.approx(1)
    assert any("no lpips" in event.text for event in events if isinstance(event, Note))
    page = Path(events[-1].page).read_text()
    assert "data:image/png;base64," in page
    assert "exact" in page


def test_a_random_autoencoder_loses_much(images: Path, tmp_path: Path) -> None:
    codec = save_autoencoder(tmp_path / "vae")
    report, _ = run(images, codec, batch_size=2)
    assert report["metrics"]["rfd_efficientnet_lite0"]["value"] > 10
    assert 3 < report["metrics"]["psnr"]["value"] < 15
    assert report["metrics"]["ssim"]["value"] < 0.3
    assert report["codec"]["kind"] == "AutoencoderKL"
    again, _ = run(images, codec, batch_size=5)
    for name, metric in report["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-5)


def test_size_crops_as_encode_latents_does(images: Path) -> None:
    write_folder(images, {"wide.png": png(9, 40, 24)})
    with pytest.raises(MdtError, match="different sizes"):
        run(images, "pixels")
    report, _ = run(images, "pixels", size=12)
    assert report["samples"]["image_size"] == [12, 12]
    assert report["samples"]["count"] == 6


def test_what_cannot_be_measured(images: Path, tmp_path: Path) -> None:
    wide = write_folder(tmp_path / "wide", {f"{i}.png": png(i, 20, 16) for i in range(3)})
    with pytest.raises(MdtError, match="measured on squares"):
        run(wide, "pixels")
    with pytest.raises(MdtError, match="do not fit"):
        run(images, save_autoencoder(tmp_path / "vae"), size=15)
    with pytest.raises(MdtError, match="no such codec"):
        run(images, "nonsense")
    one = write_folder(tmp_path / "one", {"a.png": png(0)})
    with pytest.raises(MdtError, match="below 2"):
        run(one, "pixels")
    write_folder(tmp_path / "bad", {"a.png": png(0), "b.png": png(1)[:-40]})
    with pytest.raises(MdtError, match=r"b.png cannot be read"):
        run(tmp_path / "bad", "pixels", size=8)


def test_lpips_where_it_is_installed(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lpips(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            assert one.abs().max() <= 1
            return (one - other).abs().mean((1, 2, 3), keepdim=True) + 0.25

    fake = types.ModuleType("lpips")
    fake.LPIPS = Lpips
    fake.__spec__ = types.SimpleNamespace(name="lpips")
    monkeypatch.setitem(sys.modules, "lpips", fake)
    report, _ = run(images, "pixels")
    assert report["metrics"]["lpips"]["value"] == pytest.approx(0.25)
