"""What a report and the statistics of a reference may replace, and what they leave alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.services.evaluate import feature_shards
from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.export.model_card import read_report
from tests.pictures import array, png, write_folder
from tests.services.evaluate.evaluation_kit import run
from tests.services.training_kit import make_cache, make_images, small
from tests.services.training_kit import run as train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def asked(sets: tuple[Path, Path], inception: Path) -> EvaluateRequest:
    return EvaluateRequest(*sets, ("fid", "kid"), weights=inception)


@pytest.mark.parametrize(
    "name", ["samples/000000.png", "notes.txt", "settings.json", "report.json"]
)
def test_a_report_replaces_nothing_but_reports(
    asked: EvaluateRequest, tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    if name == "report.json":
        (tmp_path / "report.html").write_text("<title>mine</title>")
    elif not target.exists():
        target.write_text('{"mine": 1}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MdtError, match="exists and is not a report") as refused:
        run(replace(asked, out=target))
    assert "--out" in str(refused.value.hint)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_report_and_an_empty_file_are_replaced(asked: EvaluateRequest, tmp_path: Path) -> None:
    (tmp_path / "r.json").touch()
    first, _ = run(replace(asked, out=tmp_path / "r.json"))
    again, _ = run(replace(asked, out=tmp_path / "r.json"))
    assert again == first
    write_folder(tmp_path / "more", {f"{i}.png": png(90 + i) for i in range(7)})
    both = replace(asked, others=(tmp_path / "more",), out=tmp_path / "r.json")
    assert len(run(both)[0]["reports"]) == 2
    assert run(both)
    with pytest.raises(MdtError, match="compares several sets"):
        read_report(tmp_path / "r.json")


def test_statistics_replace_only_their_like(asked: EvaluateRequest, tmp_path: Path) -> None:
    drawn, saved = tmp_path / "drawn.npz", tmp_path / "saved.npz"
    np.savez(drawn, arr_0=np.stack([array(i) for i in range(7)]))
    before = drawn.read_bytes()
    with pytest.raises(MdtError, match="holds the samples"):
        run(replace(asked, samples=drawn, save_reference=drawn))
    with pytest.raises(MdtError, match="holds no statistics"):
        run(replace(asked, save_reference=drawn))
    assert drawn.read_bytes() == before
    for _ in range(2):
        run(replace(asked, save_reference=saved))
    other = replace(asked, resize="legacy_tensorflow", save_reference=saved)
    with pytest.raises(MdtError, match="statistics of inception with clean resizing, not of"):
        run(other)


def test_swapped_paths_are_told(asked: EvaluateRequest, tmp_path: Path) -> None:
    saved = tmp_path / "saved.npz"
    run(replace(asked, save_reference=saved))
    with pytest.raises(MdtError, match="holds statistics of a reference, not images") as refused:
        run(replace(asked, samples=saved))
    assert "the reference comes last" in str(refused.value.hint)
    with pytest.raises(MdtError, match="was computed with inception, but the extractor is dinov2"):
        run(replace(asked, reference=saved, weights=None, extractor="dinov2", metrics=("fid",)))


def test_a_run_and_a_packed_tar_are_no_samples(asked: EvaluateRequest, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_images(tmp_path / "images"))
    train(cache, tmp_path / "runs" / "one", small(1, "preview.every=1"))
    for given in (tmp_path / "runs", tmp_path / "runs" / "one"):
        with pytest.raises(MdtError, match="one is a training run"):
            run(replace(asked, samples=given))
        with pytest.raises(MdtError, match="one is a training run"):
            make_cache(tmp_path / "other", given)
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(MdtError, match="is a packed tar"):
        run(replace(asked, samples=tmp_path / "x.tar.gz"))


def test_a_small_set_that_is_stopped_says_that_nothing_is_kept(
    asked: EvaluateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> Iterator[int]:
        yield 1
        raise Stopped(2)

    monkeypatch.setattr(feature_shards, "collect", stopped)
    with pytest.raises(Stopped) as heard:
        list(evaluate(replace(asked, device="cpu")))
    assert "up to 1,000 images are extracted again" in heard.value.saved


def test_the_grid_of_a_sample_folder_is_not_encoded(tmp_path: Path) -> None:
    files = {"000000.png": png(0), "000001.png": png(1), "grid.png": png(2, 64, 64)}
    source = open_images(write_folder(tmp_path, {**files, "samples.json": b"{}"}))
    assert source.names == ["000000.png", "000001.png"]
    assert source.ignored["not a sample"] == 1
