"""Every layout lists the same images in the same order, with classes, or says what is wrong."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.image_set import ImageSet, limited, without_classes
from mdt_cli.images.open_image import UnreadableError
from tests.pictures import class_files, png, write_folder, write_zip

FILES = class_files()
LABELS = [0] * 5 + [1] * 5 + [2] * 5


def contents(source: ImageSet) -> list[bytes]:
    data = [source.reader.read(location) for location in source.locations]
    source.close()
    return [raw.read_bytes() if isinstance(raw, Path) else raw for raw in data]


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_class_folders(tmp_path: Path) -> None:
    source = open_container(write_folder(tmp_path, FILES))
    assert source.names == sorted(FILES)
    assert (source.labels, source.classes) == (LABELS, ("a", "b", "c"))
    assert contents(source) == [FILES[name] for name in sorted(FILES)]


def test_nested_folders_belong_to_the_first(tmp_path: Path) -> None:
    files = {"a/x/1.png": png(1), "a/y/2.png": png(2), "b/3.png": png(3)}
    source = open_container(write_folder(tmp_path, files))
    assert (source.labels, source.classes) == ([0, 0, 1], ("a", "b"))


def test_flat_folder_has_no_classes(tmp_path: Path) -> None:
    source = open_container(write_folder(tmp_path, {"2.png": png(2), "1.JPG": png(1)}))
    assert (source.names, source.classes, source.labels) == (["1.JPG", "2.png"], (), [0, 0])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path: Path, method: int) -> None:
    shuffled = dict(reversed(FILES.items()))
    source = open_container(write_zip(tmp_path / "a.zip", shuffled, method))
    assert (source.names, source.labels) == (sorted(FILES), LABELS)
    assert contents(source) == [FILES[name] for name in sorted(FILES)]


@pytest.mark.parametrize("kind", ["zip", "tar", "tars", "folder"])
def test_one_folder_around_the_classes_is_no_class(tmp_path: Path, kind: str) -> None:
    files = {f"train/{name}": data for name, data in FILES.items()}
    match kind:
        case "zip":
            path = write_zip(tmp_path / "a.zip", files)
        case "tar":
            path = write_tar(tmp_path / "a.tar", files)
        case "tars":
            path = tmp_path
            for number in range(2):
                part = dict(list(files.items())[number::2])
                write_tar(tmp_path / f"{number}.tar", part)
        case _:
            path = write_folder(tmp_path, files)
            (tmp_path / "train" / "d").mkdir()
    source = open_container(path)
    assert source.classes == ("a", "b", "c")
    for name, label in zip(source.names, source.labels, strict=True):
        assert name.split("/")[-2] == source.classes[label]
    assert "everything lies in train/" in source.notes[0]
    assert contents(source) == [FILES["/".join(n.split("/")[-2:])] for n in source.names]
    if kind == "folder":
        assert "left out of the classes: d" in source.notes[1]


def test_damaged_zip_member_is_unreadable(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1.png": png(1), "2.png": png(2)})
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    source = open_container(path)
    with pytest.raises(UnreadableError, match="checksum"):
        source.reader.read(source.locations[0])
    assert source.reader.read(source.locations[1]) == png(2)
    source.reader.close()


def test_strangers_are_ignored_and_counted(tmp_path: Path) -> None:
    extra = {"a/Thumbs.db": b"", "__MACOSX/a/._1.png": b"", "a/.hidden.png": b"", "readme.txt": b""}
    folder = open_container(write_folder(tmp_path / "f", FILES | extra))
    zipped = open_container(write_zip(tmp_path / "a.zip", FILES | extra))
    assert folder.names == zipped.names == sorted(FILES)
    assert zipped.ignored == {"hidden": 2, ".db": 1, ".txt": 1}


def test_folders_without_images_are_told(tmp_path: Path) -> None:
    (write_folder(tmp_path, FILES) / "empty").mkdir()
    source = open_container(tmp_path)
    assert source.classes == ("a", "b", "c")
    assert "empty" in source.notes[0]


@pytest.mark.parametrize("zipped", [True, False])
def test_edm2(tmp_path: Path, zipped: bool) -> None:
    names = [f"0000{k}/img0000000{k}.png" for k in range(4)]
    files = {name: png(k) for k, name in enumerate(names)}
    files["dataset.json"] = json.dumps(
        {"labels": [[n, 3 - k] for k, n in enumerate(names)]}
    ).encode()
    path = tmp_path / "edm"
    source = open_container(write_zip(path, files) if zipped else write_folder(path, files))
    assert source.labels == [3, 2, 1, 0]
    assert source.classes == ("0", "1", "2", "3")


def test_edm2_without_labels(tmp_path: Path) -> None:
    files = {"00000/img0.png": png(0), "dataset.json": b'{"labels": null}'}
    assert open_container(write_zip(tmp_path / "edm.zip", files)).classes == ()


def test_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        files: dict[str, bytes] = {}
        for k in range(3):
            files |= {f"{k:04d}.png": png(10 * shard + k), f"{k:04d}.cls": str(k + shard).encode()}
        write_tar(tmp_path / f"s-{shard}.tar", files)
    source = open_container(tmp_path)
    assert source.names[0] == "s-0.tar/0000.png"
    assert (source.labels, source.classes) == ([0, 1, 2, 1, 2, 3], ("0", "1", "2", "3"))
    assert contents(source) == [png(k) for k in (0, 1, 2, 10, 11, 12)]


def test_webdataset_json_and_folders(tmp_path: Path) -> None:
    told = {
        "1.png": png(1),
        "1.json": b'{"label": "dog"}',
        "2.png": png(2),
        "2.json": b'{"cls": "ant"}',
    }
    source = open_container(write_tar(tmp_path / "json.tar", told))
    assert (source.labels, source.classes) == ([1, 0], ("ant", "dog"))
    source = open_container(write_tar(tmp_path / "folders.tar", FILES))
    assert (source.labels, source.classes) == (LABELS, ("a", "b", "c"))


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}
    for split, base in (("train", 0), ("test", 50)):
        table = pa.table(
            {
                "image": [{"bytes": png(base + k), "path": f"{k}.png"} for k in range(5)],
                "label": [1, 0, 1, 1, 0],
            }
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"data/{split}-00000-of-00001.parquet", row_group_size=2)
    source = open_container(tmp_path)
    assert (source.labels, source.classes) == ([1, 0, 1, 1, 0], ("cat", "dog", "eel"))
    assert "train is taken" in source.notes[0]
    assert contents(source) == [png(k) for k in range(5)]


def test_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    source = limited(open_container(write_folder(tmp_path, FILES)), 3)
    assert (source.labels, source.classes) == ([0, 1, 2], ("a", "b", "c"))


def test_digest_knows_what_changed(tmp_path: Path) -> None:
    one = open_container(write_zip(tmp_path / "1.zip", FILES)).digest
    assert (
        open_container(write_zip(tmp_path / "2.zip", dict(reversed(FILES.items())))).digest == one
    )
    other = FILES | {"a/000.png": png(999)}
    assert open_container(write_zip(tmp_path / "3.zip", other)).digest != one
    assert open_container(write_zip(tmp_path / "4.zip", FILES | {"c/9.png": png(1)})).digest != one


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images"),
        ({"notes.txt": b"", "a/b.csv": b""}, r"holds no images \(found 1 .csv, 1 .txt\)"),
        ({"img-mean-std-00000000.npy": b""}, "EDM2 latents"),
    ],
)
def test_bad_folders_say_what_is_wrong(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    tmp_path.joinpath("in").mkdir()
    with pytest.raises(MdtError, match=message):
        open_container(write_folder(tmp_path / "in", files))
    if files:
        with pytest.raises(MdtError, match=message):
            open_container(write_zip(tmp_path / "in.zip", files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": png(1), "a/2.png": png(2)}, "both in class folders"),
        ({"train/a/1.png": png(1), "val/a/1.png": png(2)}, "holds splits"),
    ],
)
def test_images_with_contradicting_classes_are_listed_without_any(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for path in (
        write_folder(tmp_path / "in", files),
        write_zip(tmp_path / "in.zip", files),
        write_tar(tmp_path / "in.tar", files),
    ):
        source = open_container(path)
        assert (len(source), source.classes, source.labels) == (2, (), [0, 0])
        assert source.fault is not None
        assert message in source.fault.message


def test_bad_paths_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="no such folder or file"):
        open_container(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MdtError, match="neither a folder nor a zip"):
        open_container(tmp_path / "a.txt")
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(MdtError, match=r"cannot read .*a\.tar"):
        open_container(tmp_path / "a.tar")


def test_bad_labels_say_what_is_wrong(tmp_path: Path) -> None:
    files = {"0/1.png": png(1), "0/2.png": png(2)}
    listing = {"labels": [["0/1.png", 0]]}
    path = write_zip(tmp_path / "1.zip", files | {"dataset.json": json.dumps(listing).encode()})
    source = open_container(path)
    assert "labels for 1 of 2 images" in str(source.fault)
    assert (len(without_classes(source)), without_classes(source).fault) == (2, None)
    source = open_container(write_zip(tmp_path / "2.zip", files | {"dataset.json": b"[1]"}))
    assert "not what EDM2 writes" in str(source.fault)
