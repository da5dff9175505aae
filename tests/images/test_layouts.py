"""What is no training image or class is not taken for one: an error lists it and names the way."""

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.reading import Reading
from tests.pictures import png, write_folder, write_zip


def files(*names: str) -> dict[str, bytes]:
    return {name: png(k) if not name.endswith(".cls") else b"1" for k, name in enumerate(names)}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def refused(path: Path, message: str) -> ImageSet:
    """Opening is an error with this message; its hint works, and gives the set."""
    with pytest.raises(MdtError, match=message) as caught:
        open_images(path)
    hint = caught.value.hint
    if hint is None or "--only" not in hint:
        raise AssertionError(hint)
    given = re.search(r"\(or give ([^)]+)\)", hint)
    if given:
        assert len(open_images(Path(given[1])))
    assert len(open_images(path, Reading(only=("*",))))
    words = re.search(r"--only [^;(]*", hint)
    assert words is not None
    only = tuple(word for word in shlex.split(words[0]) if word != "--only")
    return open_images(path, Reading(only=only))


SPLITS = {
    "capitals": ("Training", "Testing"),
    "short": ("Train", "Val"),
    "shouting": ("TRAIN", "TEST"),
    "intel": ("seg_train", "seg_test"),
    "coco": ("train2017", "val2017"),
    "kaggle": ("training_set", "test_set"),
    "stl": ("train", "test", "unlabeled"),
    "camel": ("TrainSet", "ValidSet"),
    "cyclegan": ("trainA", "testA"),
    "wrapped": ("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"),
}


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
@pytest.mark.parametrize("case", SPLITS)
def test_splits_by_any_name(tmp_path: Path, case: str, container: str) -> None:
    names = [f"{split}/{c}/{k}.png" for split in SPLITS[case] for c in "ab" for k in range(2)]
    held = files(*names)
    path = {
        "folder": lambda: write_folder(tmp_path / "in", held),
        "zip": lambda: write_zip(tmp_path / "in.zip", held),
        "tar": lambda: write_tar(tmp_path / "in.tar", held),
    }[container]()
    images = refused(path, "holds splits")
    assert (len(images), images.classes) == (4, ("a", "b"))


def test_splits_in_every_class_and_a_flat_test_set(tmp_path: Path) -> None:
    inside = [f"{c}/{split}/{k}.png" for c in "ab" for split in ("train", "test") for k in range(2)]
    images = refused(write_folder(tmp_path / "mvtec", files(*inside)), "holds splits")
    assert (len(images), images.classes) == (4, ("a", "b"))
    flat = files("train/a/0.png", "train/b/1.png", "test/2.png", "test/3.png")
    images = refused(write_folder(tmp_path / "flat", flat), "holds splits")
    assert images.classes == ("a", "b")


@pytest.mark.parametrize(
    "names", [("train", "bus"), ("valid", "invalid"), ("a", "b"), ("Val", "x")]
)
def test_classes_that_are_no_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    path = write_folder(tmp_path, files(*(f"{name}/0.png" for name in names)))
    assert open_images(path).classes == tuple(sorted(names))


def test_the_tree_of_ilsvrc_is_a_wrapper(tmp_path: Path) -> None:
    held = files(*(f"ILSVRC/Data/CLS-LOC/train/n0{k}/n0{k}_1.JPEG" for k in range(3)))
    held["ILSVRC/Annotations/CLS-LOC/train/n00/n00_1.xml"] = b"<a/>"
    images = open_images(write_folder(tmp_path, held))
    assert images.classes == ("n00", "n01", "n02")
    assert "everything lies in ILSVRC/Data/CLS-LOC/train/" in images.notes[0]


SAMPLES = {
    "segmentation": ("0.jpg", "0.seg.png", "0.cls", "1.jpg", "1.seg.png", "1.cls"),
    "no labels": ("0.jpg", "0.seg.png", "1.jpg", "1.seg.png"),
    "same suffix": ("0.png", "0.depth.png", "1.png", "1.depth.png"),
    "in folders": ("a/0.input.jpg", "a/0.target.jpg", "b/0.input.jpg", "b/0.target.jpg"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_a_sample_of_a_tar_with_several_images(tmp_path: Path, case: str) -> None:
    path = write_tar(tmp_path / "in.tar", files(*SAMPLES[case]))
    assert len(refused(path, "have several images each")) == 2


def test_names_with_dots_in_a_tar_are_names(tmp_path: Path) -> None:
    names = [f"a/img.{k:03d}.png" for k in range(9)]
    assert len(open_images(write_tar(tmp_path / "a.tar", files(*names)))) == 9
    labelled = files(*names) | {f"a/img.{k:03d}.cls": b"1" for k in range(9)}
    with pytest.raises(MdtError, match="one sample of a WebDataset"):
        open_images(write_tar(tmp_path / "b.tar", labelled))


COMPANIONS = {
    "masks beside": ("a/1.jpg", "a/1_mask.png", "a/2.jpg"),
    "thumbnails beside": ("1.jpg", "1-thumb.jpg"),
    "copies": ("a/1.jpg", "a/1.png", "a/2.jpg", "a/2.png"),
    "two folders": ("images/1.png", "images/2.png", "masks/1.png", "masks/2.png"),
    "in each": ("a/image/1.png", "a/mask/1.png", "b/image/2.png", "b/mask/2.png"),
    "thumbnails": ("a/1.png", "a/thumbnails/1.png", "b/2.png"),
    "of one size": ("images1024x1024/1.png", "thumbnails128x128/1.png"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", COMPANIONS)
def test_masks_thumbnails_and_copies(tmp_path: Path, case: str, zipped: bool) -> None:
    held = files(*COMPANIONS[case])
    path = write_zip(tmp_path / "in.zip", held) if zipped else write_folder(tmp_path / "in", held)
    images = refused(path, "lies beside|several images each|no images of the set")
    assert not any(re.search("mask|thumb", name) for name in images.names)


def test_what_servers_and_windows_keep_is_no_image(tmp_path: Path) -> None:
    held = files("a/1.png", "b/2.png", "@eaDir/1.png", "a/@eaDir/1.png/T.jpg", "$RECYCLE.BIN/x.png")
    images = open_images(write_folder(tmp_path, held | files("__MACOSX/a/1.png")))
    assert (images.names, images.classes) == (["a/1.png", "b/2.png"], ("a", "b"))


def write_parquet(path: Path, count: int) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    rows = [{"bytes": png(k), "path": ""} for k in range(count)]
    table = pa.table({"image": rows, "label": [k % 2 for k in range(count)]})
    path.parent.mkdir(parents=True, exist_ok=True)
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(info), path)


TABLES = {
    "sizes": ("64/train-00000-of-00001", "128/train-00000-of-00001"),
    "converted": ("cropped/train/0000", "full/train/0000", "full/test/0000"),
    "beside": ("train-00000-of-00001", "small/train-00000-of-00001"),
    "no training": ("test-00000-of-00001", "validation-00000-of-00001"),
}


@pytest.mark.parametrize("case", TABLES)
def test_parquet_configurations_do_not_merge(tmp_path: Path, case: str) -> None:
    for count, name in enumerate(TABLES[case], 2):
        write_parquet(tmp_path / f"{name}.parquet", count)
    images = refused(tmp_path, "several (configurations|splits)")
    assert len({name.rpartition("/")[0] for name in images.names}) == 1


def test_one_parquet_configuration_in_its_folder(tmp_path: Path) -> None:
    for count, name in enumerate(("default/train/0000", "default/train/0001", "default/test/0"), 2):
        write_parquet(tmp_path / f"{name}.parquet", count)
    images = open_images(tmp_path)
    assert len(images) == 5
    assert "train is taken" in images.notes[0]
    assert len(open_images(tmp_path, Reading(only=("default/test/*",)))) == 4
    with pytest.raises(MdtError, match="names none of the 3 parquet files"):
        open_images(tmp_path, Reading(only=("val*",)))


def test_patterns_that_name_nothing_or_meet_rows(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "in", files("a/1.png", "b/2.png"))
    with pytest.raises(MdtError, match=r"names none of the 2 images") as caught:
        open_images(path, Reading(only=("c/*",)))
    assert caught.value.hint == "the first is a/1.png"
    assert open_images(path, Reading(only=("!a",))).names == ["b/2.png"]
    import numpy as np

    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(MdtError, match="images and classes are fixed"):
        open_images(tmp_path / "a.npz", Reading(only=("*",)))


def test_the_same_images_at_several_sizes(tmp_path: Path) -> None:
    sizes = write_folder(tmp_path / "a", files("64/1.png", "64/2.png", "256/1.png", "256/2.png"))
    assert refused(sizes, "folders of several sizes: 64, 256").names == ["256/1.png", "256/2.png"]
    numbers = write_folder(tmp_path / "b", files("64/1.png", "256/2.png"))
    assert open_images(numbers).classes == ("64", "256")


TARS = {
    "names": ("train-0000.tar", "train-0001.tar", "val-0000.tar"),
    "folders": ("train/0.tar", "train/1.tar", "validation/0.tar"),
    "words": ("imagenet1k-train-00.tar", "imagenet1k-train-01.tar", "imagenet1k-validation-00.tar"),
    "sizes": ("64/0.tar", "64/1.tar", "128/0.tar"),
}


@pytest.mark.parametrize("case", TARS)
def test_tars_of_several_splits_or_sizes(tmp_path: Path, case: str) -> None:
    for k, name in enumerate(TARS[case]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, {f"{k}.png": png(k)})
    images = refused(tmp_path, "tars of (several splits|the same names)")
    assert len(images) == (1 if case == "sizes" else 2)


def test_shards_of_other_folders_are_one_set(tmp_path: Path) -> None:
    for k, name in enumerate(("part1/0.tar", "part2/1.tar", "more/2.tar")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, {f"{k}.png": png(k)})
    assert len(open_images(tmp_path)) == 3


def test_parquet_files_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a/train-00000-of-00003.parquet", 2)
    write_parquet(tmp_path / "a/train-00002-of-00003.parquet", 2)
    with pytest.raises(MdtError, match=r"lacks 1 of the 3 files train.*: 00001"):
        open_images(tmp_path / "a")
    assert len(open_images(tmp_path / "a", Reading(only=("*",)))) == 4
    assert len(open_images(tmp_path / "a/train-00000-of-00003.parquet")) == 2
    write_parquet(tmp_path / "b/train-00000-of-00001.parquet", 2)
    write_parquet(tmp_path / "b/train-00000-of-00001-0123456789abcdef.parquet", 2)
    with pytest.raises(MdtError, match="train more than once"):
        open_images(tmp_path / "b")


@pytest.mark.parametrize(
    "names",
    [
        ("00000/img00000000.png", "00001/img00001000.png"),
        ("000000/000003.png", "000001/001003.png"),
    ],
)
def test_folders_of_a_thousand_numbered_images_are_no_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    held = files(*names)
    for path in (write_folder(tmp_path / "a", held), write_zip(tmp_path / "a.zip", held)):
        images = open_images(path)
        assert (images.classes, len(images)) == ((), 2)
        assert images.fault is not None
        assert "hold 1,000 numbered images each" in images.fault.message
        assert len(open_images(path, Reading(only=("*",))).classes) == 2


def test_one_loose_image_can_be_left_out(tmp_path: Path) -> None:
    path = write_folder(tmp_path, files("a/1.png", "b/2.png", "preview.png"))
    assert "--only '!preview.png'" in str(getattr(open_images(path).fault, "hint", ""))
    assert open_images(path, Reading(only=("!preview.png",))).classes == ("a", "b")
    more = write_folder(tmp_path, files("x.png"))
    assert "--only '*/*'" in str(getattr(open_images(more).fault, "hint", ""))
    assert open_images(more, Reading(only=("*/*",))).classes == ("a", "b")


def test_what_was_begun_by_the_first_rules_reads_as_it_did(tmp_path: Path) -> None:
    """Layouts that were read otherwise by version 0.1 keep their images and classes."""
    old = Reading("text")
    wrapped = write_folder(tmp_path / "w", files("x/data/a/1.png", "x/data/b/2.png"))
    assert open_images(wrapped, old).classes == ("data",)
    splits = write_folder(tmp_path / "s", files("Training/a/1.png", "Testing/a/2.png"))
    assert open_images(splits, old).classes == ("Testing", "Training")
    listed = files("1.png", "2.png") | {"metadata.csv": b"file_name,label\n1.png,0\n2.png,1"}
    assert open_images(write_folder(tmp_path / "m", listed), old).classes == ()
    sample = files("0.jpg", "0.seg.png", "0.cls")
    assert len(open_images(write_tar(tmp_path / "t.tar", sample), old)) == 2
    for count, name in enumerate(TABLES["sizes"], 2):
        write_parquet(tmp_path / f"p/{name}.parquet", count)
    assert len(open_images(tmp_path / "p", old)) == 5
    edm = files("0.png") | {"dataset.json": b'{"labels": [["./0.png", 1]]}'}
    assert open_images(write_folder(tmp_path / "e", edm), old).classes == ()
