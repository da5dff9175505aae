"""Sets of any size, cropped as the encoder crops them, and sets that are read in shards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdt_cli.errors import MdtError
from mdt_cli.services.evaluate import feature_shards
from mdt_cli.services.evaluate.evaluate import EvaluateRequest
from mdt_cli.services.events import Warned
from tests.pictures import array, png, write_folder
from tests.services.evaluate import evaluation_kit
from tests.services.evaluate.evaluation_kit import told
from tests.services.training_kit import make_cache

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "samples", {f"{i:06d}.png": png(i) for i in range(7)})


def run(request: EvaluateRequest) -> tuple[dict[str, Any], str]:
    """The report, and what was warned of."""
    report, events = evaluation_kit.run(request)
    return report, told(events, Warned)


def test_size_crops_every_set_as_encode_latents_does(
    samples: Path, inception: Path, tmp_path: Path
) -> None:
    """Pictures of any size are scored as the cache that was made of them."""
    files = {f"{i}.png": png(70 + i, 20 + i, 40 - i) for i in range(5)} | {"s.png": png(80, 9, 12)}
    pictures = write_folder(tmp_path / "pictures", files)
    cache = make_cache(tmp_path / "made", pictures, size=16)
    saved = tmp_path / "saved.npz"
    of_cache, _ = run(EvaluateRequest(samples, cache, weights=inception))
    request = EvaluateRequest(samples, pictures, weights=inception, size=16)
    cropped, warned = run(replace(request, save_reference=saved))
    assert cropped["metrics"]["fid"] == of_cache["metrics"]["fid"]
    for side, expected in (("samples", of_cache["samples"]), ("reference", of_cache["reference"])):
        assert cropped[side]["digest"] == expected["digest"]
        assert cropped[side]["image_size"] == [16, 16]
        assert "centre square" in cropped[side]["crop"]
        assert "crop" not in expected
    assert "1 images of" in warned
    assert "smaller than --size 16, which enlarges them" in warned
    assert cropped["reference"]["resized"] == 6
    assert (cropped["samples"]["resized"], "by --size" in str(cropped)) == (0, False)
    with np.load(saved) as stored:
        assert stored["size"].tolist() == [16, 16]
    of_saved, _ = run(EvaluateRequest(pictures, saved, weights=inception, size=16))
    assert of_saved["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-8)
    with pytest.raises(MdtError, match=r"gives 8x8 images, but .*saved.npz is of 16x16") as refused:
        run(EvaluateRequest(pictures, saved, weights=inception, size=8))
    assert "give the images behind them, and --size 8" in str(refused.value.hint)
    halved, _ = run(EvaluateRequest(samples, samples, weights=inception, size=8))
    assert "7 samples were resized by --size" in halved["comparability"]["verdict"]
    small = write_folder(tmp_path / "small", {f"{i}.png": png(i, 8, 8) for i in range(7)})
    with pytest.raises(MdtError, match=r"holds 8x8 images, but .*made is of") as refused:
        run(EvaluateRequest(small, cache, weights=inception))
    assert "give the images behind them, and --size 8" in str(refused.value.hint)
    large = write_folder(tmp_path / "large", {f"{i}.png": png(i, 24, 24) for i in range(7)})
    with pytest.raises(MdtError, match=r"holds 24x24 images, but .*made is of") as refused:
        run(EvaluateRequest(large, cache, weights=inception))
    assert "pass --size 16: it crops" in str(refused.value.hint)


def test_size_does_not_crop_stored_statistics(samples: Path, tmp_path: Path) -> None:
    stacked = np.stack([array(i) for i in range(4)])
    np.savez(tmp_path / "adm.npz", arr_0=stacked, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(MdtError, match="statistics of 16x16 images, which --size 8 cannot crop"):
        run(EvaluateRequest(samples, tmp_path / "adm.npz", size=8))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_read_in_shards_gives_the_same_report(
    samples: Path,
    inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., None],
) -> None:
    save(tmp_path / "s.npz", arr_0=np.stack([array(i) for i in range(7)]), arr_1=np.arange(7) % 2)
    request = EvaluateRequest(tmp_path / "s.npz", samples, weights=inception)
    run(replace(request, out=tmp_path / "memory.json"))
    monkeypatch.setattr(feature_shards, "IN_MEMORY", 2)
    monkeypatch.setattr(feature_shards, "ROWS", 2)
    run(replace(request, out=tmp_path / "shards.json"))
    for kind in ("json", "html"):
        written = [(tmp_path / f"{name}.{kind}").read_bytes() for name in ("memory", "shards")]
        assert written[0] == written[1]
