"""Tars, latent caches, and the classes that each kind of set tells."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.sized import SizedSet, sized
from tests.autoencoders import save_autoencoder
from tests.pictures import array, class_files, png, write_folder, write_zip
from tests.services.training_kit import make_cache


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def opened(path: Path, crop: int | None = None) -> SizedSet:
    return sized(open_images(path), crop)


def pixels(images: SizedSet) -> list[np.ndarray]:
    return [images.decode(name, raw) for name, raw in images.read()]


def test_a_plain_tar_is_the_folder_it_was_made_of(tmp_path: Path) -> None:
    files = class_files(2, 3)
    folder = opened(write_folder(tmp_path / "folder", files))
    tar = opened(
        write_tar(tmp_path / "set.tar", {**files, "a/.hidden.png": b"", "__MACOSX/a/0.png": b""})
    )
    assert (tar.kind, tar.count, tar.size) == ("webdataset", 6, (16, 16))
    np.testing.assert_array_equal(np.stack(pixels(tar)), np.stack(pixels(folder)))
    assert tar.classes == folder.classes == ("a",) * 3 + ("b",) * 3


def test_webdataset_shards_and_their_labels(tmp_path: Path) -> None:
    (tmp_path / "wds").mkdir()
    first = {"000.png": png(0), "000.cls": b"7", "001.png": png(1), "001.json": b'{"label": 3}'}
    write_tar(tmp_path / "wds" / "0.tar", first)
    write_tar(tmp_path / "wds" / "1.tar", {"002.png": png(2), "002.cls": b"7\n"})
    images = opened(tmp_path / "wds")
    assert images.classes == ("7", "3", "7")
    np.testing.assert_array_equal(pixels(images)[2], array(2))


def test_a_damaged_tar_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": png(0), "1.png": png(1)})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:700])
    with pytest.raises(MdtError, match=r"cut.tar"):
        opened(tmp_path / "cut.tar")
    (tmp_path / "none.tar").write_bytes(b"x" * 2000)
    with pytest.raises(MdtError, match=r"cannot read .*none.tar"):
        opened(tmp_path / "none.tar")
    write_tar(tmp_path / "empty.tar", {"a.txt": b""})
    with pytest.raises(MdtError, match=r"empty.tar holds no images"):
        opened(tmp_path / "empty.tar")


def test_a_pixel_cache_is_its_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", class_files(2, 4))
    made = make_cache(tmp_path / "cache", folder)
    cache, images = opened(made), opened(folder)
    assert (cache.kind, cache.count, cache.size) == ("latent cache", 8, (16, 16))
    np.testing.assert_array_equal(np.stack(pixels(cache)), np.stack(pixels(images)))
    assert cache.classes == images.classes
    with pytest.raises(MdtError, match="holds images cropped to 16, which --size 8 would crop"):
        opened(made, crop=8)
    assert opened(made, crop=16).count == 8
    shard = next(made.glob("shard-*.safetensors"))
    whole = shard.read_bytes()
    for damaged in (whole[:-100], b"1234", whole[:-7] + b"?" + whole[-6:]):
        shard.write_bytes(damaged)
        with pytest.raises(MdtError, match=r"cache .* is damaged: the checksum of shard-00000"):
            opened(made)


def test_a_label_without_a_class_is_a_damaged_cache(tmp_path: Path) -> None:
    made = make_cache(tmp_path / "cache", write_folder(tmp_path / "images", class_files(2, 4)))
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["classes"][1]
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MdtError, match="is damaged: it has label 1, but 1 classes"):
        opened(made)


def test_a_cache_of_an_autoencoder_has_no_images(tmp_path: Path) -> None:
    from mdt_cli.services.encode.encode import encode_latents
    from mdt_cli.services.encode.request import EncodeRequest

    folder = write_folder(tmp_path / "images", class_files(2, 2))
    codec = save_autoencoder(tmp_path / "vae")
    list(encode_latents(EncodeRequest(folder, tmp_path / "cache", codec=codec, size=16, workers=0)))
    with pytest.raises(MdtError, match=r"holds latents of .*not pixels.* 4 images") as refused:
        opened(tmp_path / "cache")
    assert "give the images" in str(refused.value.hint)


def test_images_at_some_places_from_every_kind(tmp_path: Path) -> None:
    files = {f"{i}.png": png(i) for i in range(5)}
    write_folder(tmp_path / "folder", files)
    write_zip(tmp_path / "set.zip", files)
    write_tar(tmp_path / "set.tar", files)
    np.savez(tmp_path / "stored.npz", arr_0=np.stack([array(i) for i in range(5)]))
    np.savez_compressed(tmp_path / "packed.npz", arr_0=np.stack([array(i) for i in range(5)]))
    for name in ("folder", "set.zip", "set.tar", "stored.npz", "packed.npz"):
        found = dict(opened(tmp_path / name).pixels_at([4, 1, 2, 1]))
        assert list(found) == [1, 2, 4]
        for seed, picture in found.items():
            np.testing.assert_array_equal(picture, array(seed))


def test_classes_of_samples_follow_their_seeds(tmp_path: Path) -> None:
    told = {"labels": [0, 2, 1], "class_names": ["cat", "dog"], "seeds": "5-6,9"}
    files = {f"{seed:06d}.png": png(seed) for seed in (9, 6, 5)}
    write_folder(tmp_path, {**files, "samples.json": json.dumps(told).encode()})
    assert opened(tmp_path).classes == ("cat", "2", "dog")


def test_classes_of_an_npz_and_of_edm(tmp_path: Path) -> None:
    stacked = np.stack([array(i) for i in range(3)])
    np.savez(tmp_path / "s.npz", arr_0=stacked, arr_1=np.array([4, 0, 4]))
    assert opened(tmp_path / "s.npz").classes == ("4", "0", "4")
    np.savez(tmp_path / "t.npz", arr_0=stacked, arr_1=np.array([4, 0]))
    assert opened(tmp_path / "t.npz").classes is None
    listing = json.dumps({"labels": [["0/a.png", 3], ["0/b.png", 1]]}).encode()
    files = {"0/a.png": png(0), "0/b.png": png(1), "dataset.json": listing}
    assert opened(write_folder(tmp_path / "edm", files)).classes == ("3", "1")
    assert opened(write_zip(tmp_path / "edm.zip", files)).classes == ("3", "1")


def test_an_empty_class_folder_is_noted(tmp_path: Path) -> None:
    write_folder(tmp_path, class_files(2, 2))
    (tmp_path / "report.work").mkdir()
    assert open_images(tmp_path).notes == ()
    (tmp_path / "dog").mkdir()
    images = open_images(tmp_path)
    assert (len(images), images.classes) == (4, ("a", "b"))
    assert images.notes == ("folders without images, left out of the classes: dog",)


def test_runs_checkpoints_and_weights_are_no_images(tmp_path: Path) -> None:
    run = write_folder(
        tmp_path / "run",
        {
            "config.toml": b"",
            "previews/0.png": png(0),
            "checkpoints/step-1/state.json": b"{}",
            "checkpoints/step-1/weights.safetensors": b"",
        },
    )
    for path in (run, tmp_path):
        with pytest.raises(MdtError, match="run is a training run, and its images are previews"):
            open_images(path)
    with pytest.raises(MdtError, match="step-1 is a checkpoint, not a folder of images"):
        open_images(run / "checkpoints" / "step-1")
    with pytest.raises(MdtError, match="holds weights, not images"):
        open_images(run / "checkpoints" / "step-1" / "weights.safetensors")
