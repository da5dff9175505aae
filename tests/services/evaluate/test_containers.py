"""Evaluation opens whatever encoding opens, with the same images and classes."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.evaluate.codec_quality import ReconstructionRequest, reconstruct
from mdt_cli.services.evaluate.evaluate import EvaluateRequest
from mdt_cli.services.events import EvaluationDone, Warned
from tests.pictures import png, write_folder, write_zip
from tests.services.evaluate.evaluation_kit import run, told


@pytest.fixture(autouse=True)
def no_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-weights"))


def write_parquet(folder: Path, count: int = 6) -> Path:
    """A data set folder as the Hugging Face `datasets` library writes it."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table(
        {
            "image": [{"bytes": png(k), "path": f"{k}.png"} for k in range(count)],
            "label": [k % 2 for k in range(count)],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data/train-00000-of-00001.parquet", row_group_size=4)
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return path


def classes_of(report: dict) -> list[str]:
    return sorted(score["name"] for score in report["classes"]["scores"])


def test_a_parquet_folder_that_can_be_encoded_can_be_scored(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "set")
    files = {f"{('cat', 'dog')[k % 2]}/{k}.png": png(10 + k) for k in range(6)}
    samples = write_folder(tmp_path / "samples", files)
    report, _ = run(EvaluateRequest(samples, table, ("kid",), out=tmp_path / "r.json"))
    assert report["reference"]["kind"] == "parquet"
    assert report["reference"]["count"] == 6
    assert classes_of(report) == ["cat", "dog"]


def test_a_nested_folder_has_the_same_classes_for_both(tmp_path: Path) -> None:
    """Folders around all class folders are no classes."""
    one = write_folder(tmp_path / "one", {f"data/{'ab'[k % 2]}/{k}.png": png(k) for k in range(6)})
    list(encode_latents(EncodeRequest(one, tmp_path / "cache", size=16, workers=0)))
    report, _ = run(EvaluateRequest(one, one, ("kid",), out=tmp_path / "one.json"))
    assert open_cache(tmp_path / "cache").facts.class_names == ("a", "b")
    assert classes_of(report) == ["a", "b"]
    two = write_folder(
        tmp_path / "two", {f"x/data/{'ab'[k % 2]}/{k}.png": png(k) for k in range(6)}
    )
    list(encode_latents(EncodeRequest(two, tmp_path / "none", size=16, workers=0)))
    report, _ = run(EvaluateRequest(two, two, ("kid",), out=tmp_path / "two.json"))
    assert open_cache(tmp_path / "none").facts.class_names == ("a", "b")
    assert classes_of(report) == ["a", "b"]


def test_classes_that_encoding_refuses_are_left_out_with_a_warning(tmp_path: Path) -> None:
    files = {"loose.png": png(0), **{f"{'ab'[k % 2]}/{k}.png": png(k) for k in range(5)}}
    images = write_folder(tmp_path / "mixed", files)
    with pytest.raises(MdtError, match="both in class folders"):
        list(encode_latents(EncodeRequest(images, tmp_path / "cache", workers=0)))
    report, events = run(EvaluateRequest(images, images, ("kid",), out=tmp_path / "r.json"))
    assert "both in class folders" in told(events, Warned)
    assert any("both in class folders" in text for text in report["warnings"])
    assert "classes" not in report


@pytest.mark.parametrize("kind", ["parquet", "zip", "tar"])
def test_reconstruction_reads_a_container_with_and_without_size(tmp_path: Path, kind: str) -> None:
    files = {f"x/{k}.png": png(k) for k in range(4)}
    match kind:
        case "parquet":
            path = write_parquet(tmp_path / "set", 4)
        case "zip":
            path = write_zip(tmp_path / "set.zip", files)
        case _:
            path = write_tar(tmp_path / "set.tar", files)
    values = []
    for size in (None, 16):
        request = ReconstructionRequest(
            path, "pixels", size=size, out=tmp_path / "r.json", device="cpu"
        )
        events = list(reconstruct(request))
        assert isinstance(events[-1], EvaluationDone)
        assert events[-1].report["samples"]["count"] == 4
        values.append(events[-1].report["metrics"])
    assert values[0] == values[1]


def test_an_npz_and_a_pixel_cache_can_be_encoded(tmp_path: Path) -> None:
    """What evaluation opens, encoding opens as well."""
    rows = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.savez_compressed(tmp_path / "set.npz", arr_0=rows, arr_1=np.arange(5) % 2)
    list(encode_latents(EncodeRequest(tmp_path / "set.npz", tmp_path / "one", size=16, workers=2)))
    list(encode_latents(EncodeRequest(tmp_path / "one", tmp_path / "two", size=16, workers=0)))
    for name in ("one", "two"):
        cache = open_cache(tmp_path / name)
        found = ((cache.read(cache.labels.new_tensor(range(5))).mean + 1) * 127.5).round()
        np.testing.assert_array_equal(found.numpy(), rows.transpose(0, 3, 1, 2))
        assert cache.labels.tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(MdtError, match="would crop once more"):
        list(encode_latents(EncodeRequest(tmp_path / "one", tmp_path / "three", size=8)))
