"""Names that are whole numbers sort as numbers, in every layout; old caches keep their order."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mdt_cli.artifacts.data_facts import check_same_data
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.image_set import without_classes
from mdt_cli.images.labels import from_values, other_number
from mdt_cli.images.reading import Reading, known_order, number_key
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Note
from mdt_cli.services.sample.strip_images import open_strip_images
from tests.pictures import png, write_folder, write_zip
from tests.services.evaluate.evaluation_kit import told

TWELVE = tuple(str(k) for k in range(12))
FILES = {f"{k}/a.png": png(k) for k in range(12)}


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "wrapped"])
def test_class_folders_with_numbers(tmp_path: Path, kind: str) -> None:
    path = {
        "folder": lambda: write_folder(tmp_path / "in", FILES),
        "zip": lambda: write_zip(tmp_path / "in.zip", FILES),
        "tar": lambda: write_tar(tmp_path / "in.tar", FILES),
        "wrapped": lambda: write_folder(
            tmp_path / "in", {f"data/train/{name}": data for name, data in FILES.items()}
        ),
    }[kind]()
    source = open_container(path)
    assert source.classes == TWELVE
    assert source.labels == list(range(12))
    if kind != "wrapped":
        assert open_container(path, Reading("text")).classes == tuple(sorted(TWELVE))


def test_texts_of_labels_and_names_of_files(tmp_path: Path) -> None:
    assert from_values(["k 1", "10", "9", "x"], None, "")[1] == ("9", "10", "k 1", "x")
    flat = open_container(write_folder(tmp_path, {f"{k}.png": png(k) for k in range(12)}))
    assert flat.names == [f"{k}.png" for k in range(12)]


def test_tars_and_parquet_files_with_numbers(tmp_path: Path) -> None:
    for k in range(12):
        write_tar(tmp_path / f"tars/{k}.tar", {"a.png": png(k)})
    assert [name.split(".")[0] for name in open_container(tmp_path / "tars").names] == list(TWELVE)
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "train").mkdir()
    for k in range(12):
        table = pa.table({"image": [{"bytes": png(k), "path": ""}], "label": [f"{k}"]})
        pq.write_table(table, tmp_path / f"train/{k}.parquet")
    source = open_container(tmp_path / "train")
    assert source.labels == list(range(12))
    assert source.classes == TWELVE


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "10", "11"],
        ["007", "8", "010"],
        ["a/2", "a/10", "b/1"],
        ["a/2.png", "a/10.png", "a/x.png"],
        ["1/10.png", "10/2.png"],
        ["1", "01a", "1a"],
        ["n1", "n10", "n2"],
        ["a-b/x", "a/x"],
        ["9" * 39, "1" + "0" * 39, "1" + "9" * 50, "2" * 50],
    ],
)
def test_whole_numbers_alone_are_numbers(names: list[str]) -> None:
    assert sorted(set(names), key=number_key) == names


def test_what_was_begun_by_text_stays_so(tmp_path: Path) -> None:
    """A cache whose plan records no order is resumed by text, and its manifest stays so."""
    images = write_folder(tmp_path / "in", FILES)
    request = EncodeRequest(images, tmp_path / "cache", size=16, workers=0, shard_size=4)
    list(encode_latents(request))
    manifest = json.loads((tmp_path / "cache/manifest.json").read_text("utf-8"))
    assert manifest["source"]["order"] == "numbers"
    assert open_cache(tmp_path / "cache").facts.class_names == TWELVE
    old = open_container(images, Reading("text"))
    assert old.classes == tuple(sorted(TWELVE))
    plan = {k: v for k, v in manifest.items() if k in PLAN_KEYS}
    plan["source"] = {"kind": "folder", "items": 12, "digest": old.digest}
    write_folder(tmp_path / "old", {"plan.json": json.dumps(plan).encode()})
    list(encode_latents(EncodeRequest(images, tmp_path / "old", size=16, workers=0, shard_size=4)))
    after = json.loads((tmp_path / "old/manifest.json").read_text("utf-8"))
    assert after["source"] == plan["source"]
    assert open_cache(tmp_path / "old").facts.class_names == tuple(sorted(TWELVE))
    list(encode_latents(EncodeRequest(images, tmp_path / "old", size=16, workers=0, shard_size=4)))
    assert json.loads((tmp_path / "old/manifest.json").read_text("utf-8")) == after


PLAN_KEYS = {
    "format",
    "version",
    "codec",
    "image_size",
    "crop",
    "latent_shape",
    "stochastic",
    "flip",
    "dtype",
    "labelled",
    "shard_rows",
}


def test_a_rule_of_a_later_version_is_refused() -> None:
    assert (known_order(None), known_order("numbers")) == ("text", "numbers")
    with pytest.raises(MdtError, match='rule of order "length"'):
        known_order("length")


def test_strips_go_on_in_the_order_they_were_begun_in(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "in", {f"{k}.png": png(k) for k in range(12)})
    new = open_strip_images(images, Reading(), tmp_path / "strips")
    assert new.names[:3] == ["0.png", "1.png", "2.png"]
    old = without_classes(open_container(images, Reading("text")))
    for source in (old, new):
        info = PngInfo()
        settings = {"reconstruct": {"images_digest": source.digest}}
        info.add_itxt("mdt", json.dumps({"settings": settings, "seed": 0}))
        (tmp_path / "strips").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "strips/000000.png", pnginfo=info)
        again = open_strip_images(images, Reading(), tmp_path / "strips")
        assert again.names == source.names


def test_numbers_that_are_no_indices_are_said(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "in", {f"{k}/a.png": png(k) for k in (1, 2, 10)})
    events = list(encode_latents(EncodeRequest(images, tmp_path / "a", size=16, workers=0)))
    assert "class 0 is named 1" in told(events, Note)
    assert [other_number(names) for names in (("0", "1"), ("a", "b"), ("a", "01"))] == [
        None,
        None,
        1,
    ]


def test_classes_in_another_order_than_the_weights_have_are_refused(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "in", FILES)
    list(encode_latents(EncodeRequest(images, tmp_path / "cache", size=16, workers=0)))
    cache = open_cache(tmp_path / "cache")
    weights = cache.facts.header()
    check_same_data(weights, cache, tmp_path / "run")
    old = weights | {"class_names": sorted(TWELVE)}
    with pytest.raises(MdtError, match=r"classes of the cache in another order: 12 \(0, 1, 10"):
        check_same_data(old, cache, tmp_path / "run")
