"""Labels that are there are used in full, or an error names both sides and the option."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.image_set import ImageSet
from mdt_cli.services.reading import reading_of
from tests.pictures import png, write_folder, write_zip

FLAT = {f"{k}.png": png(k) for k in range(4)}
WANTED = [2, 0, 1, 0]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def edm(names: list[str]) -> bytes:
    return json.dumps({"labels": [[n, w] for n, w in zip(names, WANTED, strict=True)]}).encode()


def good(images: ImageSet) -> bool:
    assert images.fault is None, images.fault
    names = [images.classes[label] for label in images.labels]
    return names in (["2", "0", "1", "0"], ["cat", "ant", "bee", "ant"])


LISTINGS: dict[str, tuple[list[str], list[str]]] = {
    # images, what dataset.json calls them
    "dot": (list(FLAT), [f"./{name}" for name in FLAT]),
    "split before": (list(FLAT), [f"train/{name}" for name in FLAT]),
    "folder here": ([f"train/{name}" for name in FLAT], list(FLAT)),
    "backslashes": ([f"a/{name}" for name in FLAT], [f"a\\{name}" for name in FLAT]),
    "case": (list(FLAT), [name.upper() for name in FLAT]),
    "absolute": (list(FLAT), [f"/data/set/{name}" for name in FLAT]),
    "suffix": (list(FLAT), [name.replace("png", "jpg") for name in FLAT]),
    "without suffix": (list(FLAT), [name.removesuffix(".png") for name in FLAT]),
    "zeros": ([f"00{name}" for name in FLAT], list(FLAT)),
    "composed": ([f"e\u0301{name}" for name in FLAT], [f"\u00e9{name}" for name in FLAT]),
    "windows": (list(FLAT), [f"C:\\set\\{name}" for name in FLAT]),
}


@pytest.mark.parametrize("container", ["folder", "zip", "tar", "below", "zip below"])
@pytest.mark.parametrize("case", LISTINGS)
def test_names_of_dataset_json(tmp_path: Path, case: str, container: str) -> None:
    names, listed = LISTINGS[case]
    files = {name: png(k) for k, name in enumerate(names)} | {"dataset.json": edm(listed)}
    below = {f"edm/{name}": data for name, data in files.items()}
    path = {
        "folder": lambda: write_folder(tmp_path / "in", files),
        "zip": lambda: write_zip(tmp_path / "in.zip", files),
        "tar": lambda: write_tar(tmp_path / "in.tar", files),
        "below": lambda: write_folder(tmp_path / "in", below),
        "zip below": lambda: write_zip(tmp_path / "in.zip", below),
    }[container]()
    assert good(open_images(path))


@pytest.mark.parametrize("zipped", [False, True])
def test_an_edm2_set_one_folder_down(tmp_path: Path, zipped: bool) -> None:
    names = [f"0000{k // 2}/img0000000{k}.png" for k in range(4)]
    files = {f"set/{name}": png(k) for k, name in enumerate(names)}
    files["set/dataset.json"] = edm(names)
    path = write_zip(tmp_path / "a.zip", files) if zipped else write_folder(tmp_path / "a", files)
    assert good(open_images(path))


def refused(path: Path, *messages: str, **options: object) -> None:
    images = open_images(path, reading_of(None, **options))  # type: ignore[arg-type]
    assert images.fault is not None
    text = f"{images.fault.message}\n{images.fault.hint}"
    for message in messages:
        assert message in text, text
    assert images.classes == ()


@pytest.mark.parametrize(
    ("listing", "messages"),
    [
        ({}, ["has no labels"]),
        ({"images": [], "annotations": []}, ["has no labels (images, annotations)", "--labels"]),
        ({"labels": []}, ["labels for 0 of 4 images", "0.png, 1.png, 2.png"]),
        ({"labels": [["x.png", 1]]}, ["labels for 0 of 4", "0.png", "x.png"]),
        ({"labels": [["0.png", 1], ["9.png", 0]]}, ["labels for 1 of 4", "1.png", "9.png"]),
        ({"labels": [1, 2, 3, 4]}, ["no pairs"]),
        ({"labels": 3}, ["no pairs"]),
        ({"labels": [[f"{k}.png", [0.5, 0.5]] for k in range(4)]}, ["not one class"]),
        ({"labels": [[f"{k}.png", {"a": 1}] for k in range(4)]}, ["not one class"]),
        (
            {"labels": [["0.png", 1], ["./0.png", 2]] + [[f"{k}.png", 1] for k in (1, 2, 3)]},
            ["gives 0.png different classes"],
        ),
    ],
)
def test_a_dataset_json_that_does_not_fit(
    tmp_path: Path, listing: object, messages: list[str]
) -> None:
    refused(
        write_folder(tmp_path, FLAT | {"dataset.json": json.dumps(listing).encode()}), *messages
    )


def test_labels_null_one_hot_and_an_object(tmp_path: Path) -> None:
    def opened(labels: object) -> ImageSet:
        data = json.dumps({"labels": labels}).encode()
        return open_images(write_folder(tmp_path, FLAT | {"dataset.json": data}))

    none = opened(None)
    assert (none.classes, none.fault) == ((), None)
    assert "has no labels (null)" in none.notes[0]
    one_hot = [[f"{k}.png", [int(i == w) for i in range(3)]] for k, w in enumerate(WANTED)]
    assert good(opened(one_hot))
    assert good(opened({f"{k}.png": w for k, w in enumerate(WANTED)}))
    more = opened([[f"{k}.png", w] for k, w in enumerate([*WANTED, 2])])
    assert good(more)
    assert "1 of 5 entries" in more.notes[0]


def csv_of(names: list[str], header: str = "file_name,label") -> bytes:
    rows = [f"{name},{label}" for name, label in zip(names, WANTED, strict=True)]
    return "\n".join([header, *rows]).encode()


def jsonl_of(names: list[str], key: str = "label") -> bytes:
    rows = [{"file_name": n, key: w} for n, w in zip(names, WANTED, strict=True)]
    return "\n".join(map(json.dumps, rows)).encode()


IMG = [f"img/{name}" for name in FLAT]
METADATA: dict[str, dict[str, bytes]] = {
    "csv": FLAT | {"metadata.csv": csv_of(list(FLAT))},
    "jsonl": FLAT | {"metadata.jsonl": jsonl_of(list(FLAT))},
    "folder": {n: png(k) for k, n in enumerate(IMG)} | {"metadata.csv": csv_of(IMG)},
    "inside": {n: png(k) for k, n in enumerate(IMG)} | {"img/metadata.csv": csv_of(list(FLAT))},
    "class folders": {f"x{k // 2}/{k}.png": png(k) for k in range(4)}
    | {"metadata.jsonl": jsonl_of([f"x{k // 2}/{k}.png" for k in range(4)])},
    "mark": FLAT | {"metadata.csv": b"\xef\xbb\xbf" + csv_of(list(FLAT)).replace(b"\n", b"\r\n")},
    "other key": FLAT | {"metadata.jsonl": jsonl_of(list(FLAT), "breed")},
    "floats": FLAT | {"metadata.csv": csv_of(list(FLAT)).replace(b"0\n", b"0.0\n")},
    "two parts": {
        "a/0.png": png(0),
        "a/1.png": png(1),
        "b/2.png": png(2),
        "b/3.png": png(3),
        "a/metadata.csv": b"file_name,label\n0.png,2\n1.png,0",
        "b/metadata.csv": b"file_name,label\n2.png,1\n3.png,0",
    },
}


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
@pytest.mark.parametrize("case", METADATA)
def test_metadata_of_hugging_face(tmp_path: Path, case: str, container: str) -> None:
    files = METADATA[case]
    path = {
        "folder": lambda: write_folder(tmp_path / "in", files),
        "zip": lambda: write_zip(tmp_path / "in.zip", files),
        "tar": lambda: write_tar(tmp_path / "in.tar", files),
    }[container]()
    images = open_images(path)
    assert good(images)
    assert any("classes are those of" in note for note in images.notes)


def test_metadata_of_each_split(tmp_path: Path) -> None:
    files = {f"{split}/{k}.png": png(k) for split in ("train", "test") for k in range(4)}
    files |= {f"{split}/metadata.csv": csv_of(list(FLAT)) for split in ("train", "test")}
    path = write_folder(tmp_path, files)
    with pytest.raises(MdtError, match="holds splits") as caught:
        open_images(path)
    assert "--only 'train/*'" in str(caught.value.hint)
    assert good(open_images(path, reading_of(["train/*"])))


def test_metadata_that_does_not_fit(tmp_path: Path) -> None:
    def path(name: str, **more: bytes) -> Path:
        lists = {key.replace("_", ".", 1): data for key, data in more.items()}
        return write_folder(tmp_path / name, FLAT | lists)

    refused(path("short", metadata_csv=b"file_name,label\n0.png,1"), "labels for 1 of 4", "1.png")
    both = path("both", metadata_csv=csv_of(list(FLAT)), metadata_jsonl=jsonl_of(list(FLAT)))
    refused(both, "lists its classes twice", "--labels")
    assert good(open_images(both, reading_of(None, both / "metadata.csv")))
    several = csv_of(list(FLAT)).replace(b"label", b"breed,colour").replace(b"png,", b"png,9,")
    refused(path("several", metadata_csv=several), "which column", "breed, colour")
    found = open_images(tmp_path / "several", reading_of(None, label_column="colour"))
    assert good(found)
    refused(tmp_path / "several", "has no column shape", label_column="shape")
    utf16 = csv_of(list(FLAT)).decode().encode("utf-16")
    refused(path("utf16", metadata_csv=utf16), "UTF-16")
    captions = open_images(path("captions", metadata_csv=csv_of(list(FLAT), "file_name,text")))
    assert (captions.classes, captions.fault) == ((), None)
    assert "no column of classes" in captions.notes[0]


def lines(separator: str, header: str | None = None) -> str:
    rows = [f"{name}{separator}{label}" for name, label in zip(FLAT, WANTED, strict=True)]
    return "\n".join([*([header] if header else []), *rows, ""])


FILES: dict[str, str] = {
    "a.csv": lines(",", "image,label"),
    "bare.csv": lines(","),
    "semicolon.csv": lines(";", "name;class"),
    "a.tsv": lines("\t", "file\tlabel"),
    "a.txt": lines(" "),
    "tabs.txt": lines("\t"),
    "identity_CelebA.txt": lines(" "),
    "ids.csv": lines(",", "id_code,diagnosis").replace(".png", ""),
    "pandas.csv": ",path,label\n"
    + "\n".join(f"{k},/x/{n},{w}" for k, (n, w) in enumerate(zip(FLAT, WANTED, strict=True))),
    "quoted.csv": "file,label\n"
    + "\n".join(f'"{n}","{w}"' for n, w in zip(FLAT, ("cat", "ant", "bee", "ant"), strict=True)),
    "a.jsonl": jsonl_of(list(FLAT)).decode(),
    "a.json": json.dumps(dict(zip(FLAT, WANTED, strict=True))),
    "objects.json": json.dumps({n: {"label": w} for n, w in zip(FLAT, WANTED, strict=True)}),
    "records.json": json.dumps(
        [{"img": n, "target": [w]} for n, w in zip(FLAT, WANTED, strict=True)]
    ),
    "by_class.json": json.dumps({"cat": ["0.png"], "ant": ["1.png", "3.png"], "bee": ["2.png"]}),
    "pairs.json": json.dumps(list(map(list, zip(FLAT, WANTED, strict=True)))),
}


@pytest.mark.parametrize("name", FILES)
def test_labels_from_a_file(tmp_path: Path, name: str) -> None:
    path = write_folder(tmp_path / "in", FLAT)
    file = tmp_path / name
    file.write_text(FILES[name], "utf-8")
    images = open_images(path, reading_of(None, file))
    assert good(images)
    assert any(str(file) in note for note in images.notes)
    zipped = open_images(write_zip(tmp_path / "in.zip", FLAT), reading_of(None, file))
    assert zipped.labels == images.labels
    tar = open_images(write_tar(tmp_path / "in.tar", FLAT), reading_of(None, file))
    assert tar.labels == images.labels


def test_attributes_of_celeba(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "in", {f"00000{k}.jpg": png(k) for k in range(1, 5)})
    rows = [f"00000{k}.jpg  {1 if k % 2 else -1} -1  1" for k in range(1, 5)]
    file = tmp_path / "list_attr_celeba.txt"
    file.write_text("\n".join(["4", "Bald Eyeglasses Male", *rows]), "utf-8")
    refused(path, "which column", "Bald, Eyeglasses, Male", labels=file)
    images = open_images(path, reading_of(None, file, label_column="Bald"))
    assert (images.labels, images.classes) == ([1, 0, 1, 0], ("-1", "1"))
    numbered = open_images(path, reading_of(None, file, file_column="1", label_column="Bald"))
    assert numbered.labels == images.labels


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        (
            "coco.json",
            '{"images": [{"id": 1}], "annotations": [{"id": 1}]}',
            ["images, annotations"],
        ),
        ("other.csv", "file,label\nx.png,1\ny.png,2", ["names an image", "0.png", "x.png"]),
        ("numbers.txt", "490\n361\n171\n", ["names an image"]),
        ("half.csv", "file,label\n0.png,1\n1.png,2", ["labels for 2 of 4", "2.png"]),
        ("empty.csv", "", ["it is empty"]),
        ("empty.jsonl", "", ["it is empty"]),
        ("gaps.csv", "file,label\n0.png,1\n1.png,\n2.png,1\n3.png,1", ["labels for 3 of 4"]),
        ("broken.jsonl", "{\n", ["not valid JSON"]),
        ("ragged.csv", "file,label\n0.png,1,2,3", ["has 4 columns"]),
        ("twice.csv", "file,label\n0.png,1\n0.png,2\n1.png,1\n2.png,1\n3.png,1", ["different"]),
        ("only.csv", "file\n0.png\n1.png\n2.png\n3.png", ["no column of classes"]),
    ],
)
def test_a_file_of_labels_that_does_not_fit(
    tmp_path: Path, name: str, text: str, messages: list[str]
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    path = write_folder(tmp_path / "in", FLAT)
    refused(path, *messages, labels=tmp_path / name)
    refused(path, "nowhere.csv cannot be read", labels=tmp_path / "nowhere.csv")


@pytest.mark.parametrize("name", ["labels.csv", "list.txt", "train.tsv", "annotations.json"])
def test_a_list_beside_flat_images_is_not_passed_over(tmp_path: Path, name: str) -> None:
    text = {
        "annotations.json": json.dumps({"images": [{"file_name": "0.png", "id": 1}]}),
    }.get(name, lines("," if name.endswith("csv") else "\t"))
    path = write_folder(tmp_path / "in", FLAT | {name: text.encode(), "README.txt": b"10 images"})
    refused(path, f"{name} names its images", f"--labels {path}/{name}", "--unconditional")
    refused(write_zip(tmp_path / "in.zip", FLAT | {name: text.encode()}), name, "--labels")
    if name != "annotations.json":
        assert good(open_images(path, reading_of(None, path / name)))


def test_files_that_name_no_image_are_no_labels(tmp_path: Path) -> None:
    files = FLAT | {"README.txt": b"see 12 images of 2024", "stats.csv": b"mean,std\n0,1"}
    images = open_images(write_folder(tmp_path, files))
    assert (images.classes, images.fault) == ((), None)


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_the_part_of_a_name(tmp_path: Path, container: str) -> None:
    names = ("great_dane_1.png", "great_dane_2.png", "pug_1.png")
    files = {name: png(k) for k, name in enumerate(names)}
    path = write_folder(tmp_path / "in", files)
    if container == "tar":
        path = write_tar(tmp_path / "in.tar", files)
    first = open_images(path, reading_of(None, label_before="_"))
    assert (first.classes, first.labels) == (("great", "pug"), [0, 0, 1])
    last = open_images(path, reading_of(None, label_before_last="_"))
    assert (last.classes, last.labels) == (("great_dane", "pug"), [0, 0, 1])
    refused(path, "3 of 3 images", 'no class before "-"', label_before="-")
    for options in ({"label_before": "_", "labels": Path("x")}, {"label_before": ""}):
        with pytest.raises(MdtError):
            reading_of(None, **options)  # type: ignore[arg-type]


def sample(k: int, ending: str, data: bytes) -> dict[str, bytes]:
    return {f"{k}.jpg": png(k), f"{k}.{ending}": data}


BESIDE: dict[str, Callable[[int], dict[str, bytes]]] = {
    "class_id": lambda k: sample(k, "json", json.dumps({"class_id": WANTED[k]}).encode()),
    "list": lambda k: sample(k, "json", json.dumps({"label": [WANTED[k]]}).encode()),
    "text": lambda k: sample(k, "cls", f" {WANTED[k]}\n".encode()),
    "name": lambda k: sample(k, "cls", ("cat", "ant", "bee", "ant")[k].encode()),
    "cls.txt": lambda k: sample(k, "cls.txt", str(WANTED[k]).encode()),
    "label": lambda k: sample(k, "label", str(WANTED[k]).encode()),
    "number": lambda k: sample(k, "json", str(WANTED[k]).encode()),
    "one hot": lambda k: sample(
        k, "json", json.dumps({"label": [int(i == WANTED[k]) for i in range(3)]}).encode()
    ),
    "float": lambda k: sample(k, "json", json.dumps({"label": float(WANTED[k])}).encode()),
    "case": lambda k: sample(k, "json", json.dumps({"Label": WANTED[k]}).encode()),
    "only key": lambda k: sample(
        k, "json", json.dumps({"breed": WANTED[k], "url": "x", "width": 3}).encode()
    ),
    "both": lambda k: (
        sample(k, "cls", str(WANTED[k]).encode())
        | {f"{k}.json": json.dumps({"label": 9, "caption": "x"}).encode()}
    ),
}


@pytest.mark.parametrize("container", ["tar", "folder", "zip"])
@pytest.mark.parametrize("case", BESIDE)
def test_label_files_beside_images(tmp_path: Path, case: str, container: str) -> None:
    if case == "cls.txt" and container != "tar":
        pytest.skip("files of a folder are joined by their whole names")
    files = {name: data for k in range(4) for name, data in BESIDE[case](k).items()}
    path = {
        "folder": lambda: write_folder(tmp_path / "in", files),
        "zip": lambda: write_zip(tmp_path / "in.zip", files),
        "tar": lambda: write_tar(tmp_path / "in.tar", files),
    }[container]()
    assert good(open_images(path))


@pytest.mark.parametrize(
    ("ending", "data", "messages"),
    [
        ("json", b'{"breed": 1, "colour": 2}', ["which column", "breed, colour", "--label-column"]),
        ("json", b"{", ["0.json cannot be read", "not valid JSON"]),
        ("json", b"[" * 100_000, ["nested deeper"]),
        ("cls", b"", ["labels for 3 of 4"]),
        ("cls", b"\xff\xfe1\0", ["UTF-16"]),
        ("cls", b"1" * (1 << 20) + b"1", ["larger than 1 MiB"]),
        ("json", b'{"label": [1, 2]}', ["not one class"]),
        ("json", b'{"label": {"id": 1}}', ["not one class"]),
        ("txt", b"3", ["hold numbers", "--label-column txt"]),
    ],
)
def test_label_files_that_are_not_understood(
    tmp_path: Path, ending: str, data: bytes, messages: list[str]
) -> None:
    files = {name: d for k in range(1, 4) for name, d in sample(k, ending, data).items()}
    if "labels for 3" in messages[0]:
        files = {name: d for k in range(1, 4) for name, d in sample(k, ending, b"1").items()}
    path = write_tar(tmp_path / "in.tar", files | sample(0, ending, data))
    refused(path, *messages)


def test_texts_as_classes_and_captions(tmp_path: Path) -> None:
    numbers = {n: d for k in range(4) for n, d in sample(k, "txt", str(WANTED[k]).encode()).items()}
    path = write_tar(tmp_path / "a.tar", numbers)
    assert good(open_images(path, reading_of(None, label_column="txt")))
    captions = {n: d for k in range(4) for n, d in sample(k, "txt", b"a dog").items()}
    images = open_images(write_tar(tmp_path / "b.tar", captions))
    assert (images.classes, images.fault) == ((), None)


def write_parquet(path: Path, columns: dict[str, list[object]], features: object = None) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(k), "path": ""} for k in range(4)]
    table = pa.table({"image": rows, **columns})
    if features is not None:
        info = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(info)
    pq.write_table(table, path)
    return path


def test_columns_of_parquet(tmp_path: Path) -> None:
    label: list[object] = list(WANTED)
    assert good(open_images(write_parquet(tmp_path / "a.parquet", {"category_id": label})))
    assert good(open_images(write_parquet(tmp_path / "b.parquet", {"breed": label})))
    two = write_parquet(tmp_path / "c.parquet", {"breed": label, "age": [1, 2, 3, 4]})
    refused(two, "which column", "breed, age")
    assert good(open_images(two, reading_of(None, label_column="breed")))
    captions = open_images(write_parquet(tmp_path / "d.parquet", {"text": ["a", "b", "c", "d"]}))
    assert (captions.classes, captions.fault) == ((), None)
    masks: list[object] = [{"bytes": png(k), "path": ""} for k in range(9, 13)]
    mask = write_parquet(tmp_path / "e.parquet", {"mask": masks, "label": label})
    with pytest.raises(MdtError, match="several columns of images: image, mask") as caught:
        open_images(mask)
    assert caught.value.hint == "name the one to read: --file-column image"
    assert good(open_images(mask, reading_of(None, file_column="image")))
    with pytest.raises(MdtError, match="needs names of files"):
        open_images(mask, reading_of(None, tmp_path / "x.csv", file_column="image"))


def test_parquet_files_that_name_their_classes_otherwise(tmp_path: Path) -> None:
    for k, names in enumerate((["ant", "bee", "cat"], ["cat", "bee", "ant"])):
        features = {"label": {"_type": "ClassLabel", "names": names}}
        path = tmp_path / f"train-0000{k}-of-00002.parquet"
        write_parquet(path, {"label": list(WANTED)}, features)
    refused(tmp_path, "names its classes otherwise")


def test_metadata_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = write_folder(tmp_path / "in", FLAT)
    table = pa.table({"file_name": list(FLAT), "label": WANTED})
    pq.write_table(table, path / "metadata.parquet")
    assert good(open_images(path))


def test_images_beside_archives(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "in", {"assets/teaser.png": png(9)})
    write_parquet(path / "data/train-00000-of-00001.parquet", {"label": list(WANTED)})
    with pytest.raises(MdtError, match=r"1 images such as assets/teaser.png and 1 parquet"):
        open_images(path)
    assert good(open_images(path, reading_of(["*.parquet"])))
    assert len(open_images(path, reading_of(["*.png"]))) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("imagelabels.mat", b"MATLAB", "imagelabels.mat, which seems to hold some, cannot be read"),
        ("labels.npy", b"\x93NUMPY", "labels.npy, which seems to hold some"),
        ("ILSVRC2012_validation_ground_truth.txt", b"490\n361\n171\n822\n", "a number for each"),
    ],
)
def test_labels_of_other_programs_are_not_passed_over(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    refused(write_folder(tmp_path / "in", FLAT | {name: data}), message, "--labels")
    # Images in one folder are flat as well; what a command says of it names the list.
    wrapped = {f"jpg/{image}": content for image, content in FLAT.items()} | {name: data}
    refused(write_zip(tmp_path / "in.zip", wrapped), message, "--labels")


@pytest.mark.parametrize("separator", ["_", "-", "."])
def test_classes_in_names_are_pointed_out(tmp_path: Path, separator: str) -> None:
    names = [f"{kind}{separator}{k}.png" for kind in ("cat", "dog") for k in range(3)]
    path = write_folder(tmp_path / "in", {name: png(k) for k, name in enumerate(names)})
    images = open_images(path)
    assert images.classes == ()
    assert f"cat, dog: --label-before-last '{separator}'" in images.notes[0]
    assert open_images(path, reading_of(None, label_before_last=separator)).classes == (
        "cat",
        "dog",
    )
    plain = write_folder(tmp_path / "plain", {f"img{separator}{k}.png": png(k) for k in range(4)})
    assert open_images(plain).notes == ()


def test_captions_over_several_lines(tmp_path: Path) -> None:
    rows = [f'{n},"a\ndog, of\u2028course",{w}' for n, w in zip(FLAT, WANTED, strict=True)]
    text = "\n".join(["file_name,text,label", *rows])
    assert good(open_images(write_folder(tmp_path, FLAT | {"metadata.csv": text.encode()})))


def test_a_list_of_numbers_beside_numbered_images(tmp_path: Path) -> None:
    rows = "\n".join(f"{k},{w}" for k, w in enumerate(WANTED))
    path = write_folder(tmp_path / "in", FLAT | {"train.csv": f"id,label\n{rows}".encode()})
    refused(path, "train.csv names its images (0, 1, 2)")
    assert good(open_images(path, reading_of(None, path / "train.csv")))
    wrapped = {f"images/{name}": data for name, data in FLAT.items()}
    refused_as = write_folder(tmp_path / "w", wrapped | {"train.csv": f"id,label\n{rows}".encode()})
    assert "train.csv names its images" in str(open_images(refused_as).fault)


def test_parquet_files_in_folders_of_a_value(tmp_path: Path) -> None:
    for name in ("cat", "ant"):
        write_parquet(tmp_path / f"label={name}/0.parquet", {})
    images = open_images(tmp_path)
    assert (images.classes, images.labels) == (("ant", "cat"), [0] * 4 + [1] * 4)
