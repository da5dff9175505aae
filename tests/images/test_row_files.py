"""idx files, CIFAR's batches, npy and npz: every row with its label, or a sentence."""

import gzip
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.reading import Reading

GREY = np.random.default_rng(0).integers(0, 256, (6, 7, 5), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), np.uint8)
LABELS = [3, 0, 1, 2, 1, 0]


def pixels(images: ImageSet) -> np.ndarray:
    return np.stack([raw for _, raw in images.read(range(len(images)))])


def idx(values: np.ndarray) -> bytes:
    shape = b"".join(side.to_bytes(4, "big") for side in values.shape)
    return bytes([0, 0, 8, values.ndim]) + shape + values.tobytes()


def write_mnist(root: Path, packed: bool = False, separator: str = "-") -> Path:
    root.mkdir()
    for split in ("train", "t10k"):
        for what, values in (("images", GREY), ("labels", np.array(LABELS, np.uint8))):
            name = f"{split}-{what}{separator}idx{values.ndim}-ubyte"
            data = idx(values if split == "train" else values[:2])
            (root / f"{name}.gz" if packed else root / name).write_bytes(
                gzip.compress(data) if packed else data
            )
    return root


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist(tmp_path: Path, packed: bool, separator: str) -> None:
    root = write_mnist(tmp_path / "MNIST", packed, separator)
    images = open_container(root)
    assert "t10k" in images.notes[0]
    assert "is taken" in images.notes[0]
    end = ".gz" if packed else ""
    file = root / f"train-images{separator}idx3-ubyte{end}"
    for found in (images, open_container(file), open_container(root, Reading(only=("train*",)))):
        assert (found.kind, found.labels, found.size) == ("idx", LABELS, (7, 5))
        assert found.classes == ("0", "1", "2", "3")
        assert found.names[5] == f"{file.name}[5]"
        assert np.array_equal(pixels(found), GREY[..., None].repeat(3, -1))
    assert len(open_container(root, Reading(only=("t10k*",)))) == 2
    # Both kinds side by side, as torchvision leaves them, are one set.
    both = write_mnist(tmp_path / "both")
    for name, data in ((f.name, f.read_bytes()) for f in list(both.iterdir())):
        (both / f"{name}.gz").write_bytes(gzip.compress(data))
    assert np.array_equal(pixels(open_container(both)), GREY[..., None].repeat(3, -1))


def test_colour_idx_and_no_labels(tmp_path: Path) -> None:
    file = tmp_path / "rgb-images-idx4-ubyte"
    file.write_bytes(idx(RGB))
    images = open_container(file)
    assert np.array_equal(pixels(images), RGB)
    assert images.classes == ()
    assert "no file of class numbers" in images.notes[0]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", idx(GREY)[:-1], "for an array of"),
        ("train-images-idx3-ubyte", idx(GREY) + b"\0", "for an array of"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\3" + bytes(12), "no idx file of unsigned bytes"),
        ("train-images-idx3-ubyte", b"\0\0\x08\xff" + b"\xff" * 900, "for an array of"),
        ("train-images-idx3-ubyte", b"", "no idx file"),
        ("train-images-idx3-ubyte", idx(GREY[:0]), "no images"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(GREY))[:-20], "cannot be read"),
        ("train-images-idx3-ubyte.gz", idx(GREY), "cannot be read"),
        ("train-labels-idx1-ubyte", idx(np.array(LABELS, np.uint8)), "no images"),
    ],
)
def test_a_damaged_idx_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(MdtError, match=message):
            open_container(path)


def test_labels_of_another_count_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREY))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    fault = open_container(tmp_path).fault
    assert fault is not None
    assert "[5] class numbers for 6 images" in str(fault)


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how CIFAR is published."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data: bytes) -> None:
        self.write(b"T" + len(data).to_bytes(4, "little") + data)

    dispatch[bytes] = save_bytes


def python2(value: object) -> bytes:
    import io

    file = io.BytesIO()
    Python2(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python3(value: object) -> bytes:
    return pickle.dumps(value, 4)


def flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2).reshape(len(values), -1))


@pytest.mark.parametrize("write", [python2, python3])
def test_cifar_10(tmp_path: Path, write: Callable[[object], bytes]) -> None:
    for name, part in (("data_batch_1", slice(0, 4)), ("data_batch_2", slice(4, 6))):
        batch = {
            b"batch_label": b"x",
            b"labels": LABELS[part],
            b"data": flat(RGB[part]),
            b"filenames": [b"a.png"] * 2,
        }
        (tmp_path / name).write_bytes(write(batch))
    (tmp_path / "test_batch").write_bytes(write({b"labels": [1], b"data": flat(RGB[:1])}))
    names = [b"airplane", b"automobile", b"bird", b"cat"]
    (tmp_path / "batches.meta").write_bytes(write({b"label_names": names, b"num_vis": 3072}))
    (tmp_path / "readme.html").write_text("CIFAR")
    images = open_container(tmp_path)
    assert (images.kind, images.labels, images.size) == ("cifar", LABELS, (32, 32))
    assert images.classes == ("airplane", "automobile", "bird", "cat")
    assert images.names[4] == "data_batch_2[0]"
    assert np.array_equal(pixels(images), RGB)
    assert "test_batch left out" in images.notes[0]
    only = Reading(only=("test_batch",))
    for test in (open_container(tmp_path / "test_batch"), open_container(tmp_path, only)):
        assert test.labels == [1]
        assert np.array_equal(pixels(test), RGB[:1])


def test_cifar_100_and_imagenet32(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(
        python2({b"fine_labels": LABELS, b"coarse_labels": [0] * 6, b"data": flat(RGB)})
    )
    names = [b"apple", b"fish", b"baby", b"bear"]
    (tmp_path / "meta").write_bytes(python2({b"fine_label_names": names}))
    images = open_container(tmp_path)
    assert (images.labels, images.classes) == (LABELS, ("apple", "fish", "baby", "bear"))
    small = tmp_path / "imagenet8"
    small.mkdir()
    part = RGB[:, :8, :8]
    mean = np.zeros(192, np.float64)
    (small / "train_data_batch_1").write_bytes(
        python3({"data": flat(part), "labels": LABELS, "mean": mean})
    )
    images = open_container(small)
    assert images.size == (8, 8)
    assert np.array_equal(pixels(images), part)


@pytest.mark.parametrize(("name", "before"), [("data_batch_1.bin", 1), ("train.bin", 2)])
def test_the_binary_version(tmp_path: Path, name: str, before: int) -> None:
    marks = np.zeros((6, before), np.uint8)
    marks[:, -1] = LABELS
    data = np.concatenate([marks, flat(RGB)], 1)
    (tmp_path / name).write_bytes(data.tobytes())
    images = open_container(tmp_path)
    assert images.labels == LABELS
    assert np.array_equal(pixels(images), RGB)
    (tmp_path / "batches.meta.txt").write_text("a\nb\nc\nd\n\n")
    assert open_container(tmp_path).classes == ("a", "b", "c", "d")
    (tmp_path / name).write_bytes(data.tobytes()[:-1])
    with pytest.raises(MdtError, match="no rows of"):
        open_container(tmp_path)


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("ran",)


def memo_of_four_billion() -> bytes:
    return b"\x80\x02}r\xff\xff\xff\xff."


def claimed_length() -> bytes:
    return b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x."


def nested_key() -> bytes:
    """A tuple of tuples of tuples, each twice: to hash it takes 2^60 steps."""
    return b"\x80\x02}N" + b"\x85" + b"q\0" + b"h\0\x86q\0" * 60 + b"K\1s."


def attribute_of_a_function() -> bytes:
    return b"\x80\x02c_codecs\nencode\n(N}X\x08\x00\x00\x00__code__NsN\x86b."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (python3({"data": flat(RGB), "labels": Runs()}), "may run any code"),
        (python2([Runs()]), "may run any code"),
        (python3({"data": flat(RGB)})[:-9], "not a readable pickle"),
        (b"\x80\x02.", "not a readable pickle"),
        (memo_of_four_billion(), "no batch of CIFAR"),
        (claimed_length(), "not a readable pickle"),
        (nested_key(), "not a readable pickle"),
        (attribute_of_a_function(), "not a readable pickle"),
        (python3([1, 2]), "no batch of CIFAR"),
        (python3({"data": 3, "labels": []}), "no data"),
        (python3({"data": flat(RGB).astype(np.float32), "labels": LABELS}), "no data"),
        (python3({"data": flat(RGB)[:, :-1], "labels": LABELS}), "no data"),
        (python3({"data": flat(RGB), "labels": LABELS[:5]}), "not one whole number"),
        (python3({"data": flat(RGB), "labels": ["a"] * 6}), "not one whole number"),
        (python3({"data": np.array([{}, 3], object), "labels": LABELS}), "no data|readable"),
    ],
)
def test_no_pickle_runs_code_or_takes_memory(
    tmp_path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(MdtError, match=message):
        open_container(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_npy(tmp_path: Path) -> None:
    for values in (RGB, GREY, GREY[..., None]):
        np.save(tmp_path / "images.npy", values)
        expected = values if values is RGB else GREY[..., None].repeat(3, -1)
        images = open_container(tmp_path / "images.npy")
        assert np.array_equal(pixels(images), expected)
        assert "no labels" in images.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RGB / 255, "float64"),
        (RGB.transpose(0, 3, 1, 2), "moveaxis"),
        (RGB[0], r"\[32, 32, 3\]"),
        (RGB[:0], "no images"),
        (np.array([{}]), "not a readable npy"),
    ],
)
def test_other_npy_is_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "images.npy", values)
    with pytest.raises(MdtError) as caught:
        open_container(tmp_path / "images.npy")
    import re

    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(
    ("held", "entries"),
    [
        ({"train_images": RGB, "train_labels": np.array(LABELS)[:, None]}, "train"),
        ({"x_train": GREY, "y_train": np.array(LABELS), "x_test": GREY[:2]}, "x_train"),
        ({"images": RGB.transpose(0, 3, 1, 2), "labels": np.array(LABELS, np.uint8)}, "images"),
        ({"data": flat(RGB)}, "data"),
    ],
)
def test_an_npz_of_other_names_is_refused_with_a_command_that_works(
    tmp_path: Path, held: dict[str, np.ndarray], entries: str
) -> None:
    """Keras' MNIST, MedMNIST and the like."""
    path = tmp_path / "some set.npz"
    np.savez(path, **held)
    with pytest.raises(MdtError, match=r"has no arr_0") as caught:
        open_container(path)
    hint = str(caught.value.hint)
    assert entries in str(caught.value)
    if "python -c" not in hint:
        assert "data" in held
        return
    command = hint[hint.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    (made,) = set(tmp_path.glob("*.npz")) - {path}
    images = open_container(made)
    expected = GREY[..., None].repeat(3, -1) if "x_train" in held else RGB
    assert np.array_equal(pixels(images), expected)
    assert images.labels == LABELS


@pytest.mark.parametrize("labels", [np.array(LABELS)[:, None], np.array(LABELS, np.float32)])
def test_labels_of_an_npz_in_another_form(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "i.npz", RGB, labels)
    assert open_container(tmp_path / "i.npz").labels == LABELS


def test_labels_of_an_npz_may_be_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", RGB, np.array(["dog", "cat"] * 3))
    images = open_container(tmp_path / "i.npz")
    assert (images.labels, images.classes) == ([1, 0] * 3, ("cat", "dog"))


@pytest.mark.parametrize(
    "labels", [np.eye(6)[:, :4], np.full(6, 0.5), np.zeros(5), np.zeros(6, "c8")]
)
def test_labels_that_are_no_class_numbers_are_a_fault(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "i.npz", RGB, labels)
    fault = open_container(tmp_path / "i.npz").fault
    assert fault is not None
    assert "arr_1 is" in str(fault) or "5 labels for 6 images" in str(fault)


def test_several_sets_in_a_folder_are_ambiguous(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b")
    with pytest.raises(MdtError, match="several sets of images") as caught:
        open_container(tmp_path)
    assert len(open_container(Path(str(caught.value.hint).split(": ")[1]))) == 6


def test_options_that_rows_cannot_follow_are_refused(tmp_path: Path) -> None:
    reading = Reading(label_column="coarse")
    with pytest.raises(MdtError, match="--label-column cannot be used"):
        open_images(write_mnist(tmp_path / "MNIST"), reading)
    assert len(open_images(tmp_path / "MNIST", Reading(only=("t10k*",)))) == 2
