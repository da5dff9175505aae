import io
import json
import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.contents import pixel_digest
from mdt_cli.images.sized import SizedSet, sized
from tests.pictures import array, encoded, png, write_folder, write_zip
from tests.services.training_kit import make_cache


def opened(path: Path, crop: int | None = None) -> SizedSet:
    return sized(open_images(path), crop)


def pixels(images: SizedSet) -> list[np.ndarray]:
    return [images.decode(name, raw) for name, raw in images.read()]


def test_folder_zip_and_npz_give_the_same_pixels(tmp_path: Path) -> None:
    files = {f"{'ba'[i % 2]}/{i}.png": png(i, 12, 10) for i in range(6)}
    folder = opened(write_folder(tmp_path / "folder", files))
    zipped = opened(write_zip(tmp_path / "images.zip", files))
    stacked = np.stack([array(i, 12, 10) for i in (1, 3, 5, 0, 2, 4)])
    np.savez_compressed(tmp_path / "images.npz", arr_0=stacked, arr_1=np.arange(6))
    packed = opened(tmp_path / "images.npz")
    for images, kind in ((folder, "folder"), (zipped, "zip"), (packed, "npz")):
        assert (images.kind, images.count, images.size) == (kind, 6, (10, 12))
        np.testing.assert_array_equal(np.stack(pixels(images)), stacked)


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    files = {"a.png": png(0), ".tmp-b.png": png(1), ".thumbs/c.png": png(2), "notes.txt": b"x"}
    assert opened(write_folder(tmp_path, files)).images.names == ["a.png"]
    archive = write_zip(tmp_path / "x.zip", {"a.png": png(0), "__MACOSX/a.png": b"junk"})
    assert opened(archive).images.names == ["a.png"]


def test_names_that_begin_with_the_current_folder_are_not_hidden(tmp_path: Path) -> None:
    flat = write_zip(tmp_path / "flat.zip", {f"./{i}.png": png(i) for i in range(3)})
    assert (opened(flat).count, opened(flat).classes) == (3, None)
    assert (len(open_container(flat)), open_container(flat).classes) == (3, ())
    files = {f"./{c}/{i}.png": png(i) for i in range(3) for c in "ab"}
    classes = write_zip(tmp_path / "classes.zip", files | {"./.c/0.png": png(0)})
    assert opened(classes).classes == ("a", "a", "a", "b", "b", "b")
    assert (len(open_container(classes)), open_container(classes).classes) == (6, ("a", "b"))
    assert len(pixels(opened(classes))) == 6


def test_what_vanishes_while_a_folder_is_listed_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes make and remove temporaries and folders of features there."""
    write_folder(tmp_path, {"a.png": png(0), ".tmp-1-report.json": b"", "report.work/x.json": b""})
    scandir = os.scandir

    def emptied(folder: Path) -> list[os.DirEntry[str]]:
        entries = list(scandir(folder))
        (tmp_path / ".tmp-1-report.json").unlink(missing_ok=True)
        (tmp_path / "report.work" / "x.json").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            (tmp_path / "report.work").rmdir()
        return entries

    monkeypatch.setattr(os, "scandir", emptied)
    assert opened(tmp_path).images.names == ["a.png"]


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "in.zip", {"9.png": png(9)}).read_bytes()
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in {"0.png": png(0), "1.png": png(1), "in.zip": inner}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert zipfile.is_zipfile(tmp_path / "x.tar")
    assert opened(tmp_path / "x.tar").count == 2
    assert len(open_container(tmp_path / "x.tar")) == 2


def test_a_sample_folder_is_its_numbered_images_and_their_provenance(tmp_path: Path) -> None:
    files = {"000000.png": png(0), "000001.png": png(1), "grid.png": png(2, 64, 64)}
    write_folder(tmp_path, {**files, "samples.json": json.dumps({"steps": 25}).encode()})
    images = opened(tmp_path)
    assert (images.kind, images.count, images.provenance) == ("sample folder", 2, {"steps": 25})
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(MdtError, match=r"samples.json is not readable JSON"):
        opened(tmp_path)


def test_a_sample_folder_may_hold_an_npz(tmp_path: Path) -> None:
    write_folder(tmp_path, {"grid.png": png(2, 64, 64), "samples.json": b"{}"})
    np.savez(tmp_path / "samples_3x8x8x3.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    images = opened(tmp_path)
    assert (images.kind, images.path, images.count) == ("sample folder", tmp_path, 3)
    assert len(pixels(images)) == 3


def odd_pictures() -> dict[str, bytes]:
    """What pictures of the world are like, each of another size."""
    clear = Image.fromarray(array(1, 40, 30, 4))
    deep = np.random.default_rng(2).integers(0, 65536, (21, 33), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(array(k, 20, 26)).convert("P") for k in (3, 4)]
    return {
        "b/clear.png": encoded(clear),
        "b/clear.webp": encoded(clear, "WEBP", lossless=True),
        "b/deep.png": encoded(Image.fromarray(deep)),
        "b/palette.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "a/turned.jpg": encoded(Image.fromarray(array(5, 50, 35)), "JPEG", exif=exif),
        "a/ink.jfif": encoded(Image.new("CMYK", (19, 40), (10, 200, 30, 40)), "JPEG"),
        "a/small.bmp": encoded(Image.fromarray(array(6, 9, 12)), "BMP"),
        "a/plain.png": png(7, 16, 16),
    }


def test_scored_pictures_are_those_that_a_network_is_trained_on(tmp_path: Path) -> None:
    files = odd_pictures()
    folder = write_folder(tmp_path / "folder", files)
    trained = np.stack(pixels(opened(make_cache(tmp_path / "cache", folder, size=16))))
    assert len(trained) == len(files)
    for path in (folder, write_zip(tmp_path / "set.zip", files)):
        images = opened(path, crop=16)
        assert (images.size, images.crop, images.enlarged) == ((16, 16), 16, 1)
        np.testing.assert_array_equal(np.stack(pixels(images)), trained)
    with pytest.raises(MdtError, match="different sizes") as refused:
        opened(folder)
    assert "--size N" in str(refused.value.hint)


def test_an_npz_is_cropped_as_its_pictures_would_be(tmp_path: Path) -> None:
    stacked = np.stack([array(k, 50, 35) for k in range(3)])
    np.savez(tmp_path / "set.npz", arr_0=stacked)
    files = {f"{k}.png": png(k, 50, 35) for k in range(3)}
    folder = opened(write_folder(tmp_path / "folder", files), crop=16)
    packed = opened(tmp_path / "set.npz", crop=16)
    assert packed.size == (16, 16)
    np.testing.assert_array_equal(np.stack(pixels(packed)), np.stack(pixels(folder)))
    assert opened(tmp_path / "set.npz", crop=40).enlarged == 3


def test_the_size_of_a_set_is_that_of_its_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    image = Image.fromarray(array(1, 24, 16))
    write_folder(tmp_path, {"a.jpg": encoded(image, "JPEG", exif=exif), "b.png": png(2, 16, 24)})
    images = opened(tmp_path)
    assert images.size == (24, 16)
    assert [picture.shape for picture in pixels(images)] == [(24, 16, 3)] * 2


def test_lossy_pictures_are_counted_whatever_their_names(tmp_path: Path) -> None:
    image = Image.fromarray(array(1))
    files = {
        "a.png": encoded(image, "JPEG"),
        "b.webp": encoded(image, "WEBP"),
        "c.jpg": encoded(image),
    }
    assert opened(write_folder(tmp_path / "folder", files)).jpegs == 2
    assert opened(write_zip(tmp_path / "set.zip", files)).jpegs == 2


def test_training_and_scoring_list_the_same_images(tmp_path: Path) -> None:
    image = Image.fromarray(array(1))
    files = {
        **{f"a/{k}.PNG": png(k) for k in range(2)},
        "a-b/0.png": png(2),
        "b/0.jfif": encoded(image, "JPEG"),
        "b/1.pgm": encoded(image.convert("L"), "PPM"),
        "b/2.tga": encoded(image, "TGA"),
        "b/notes.txt": b"x",
        ".hidden/0.png": png(3),
        "b/.thumbs/0.png": png(4),
        "b/.0.png": b"x",
        "__MACOSX/a/0.png": b"x",
    }
    folder = write_folder(tmp_path / "folder", files)
    write_folder(tmp_path / "elsewhere", {"0.png": png(5), "more/1.png": png(6)})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "back").symlink_to(folder)
    (folder / "b" / "3.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    write_zip(tmp_path / "set.zip", files)
    for path, linked in ((folder, 3), (tmp_path / "set.zip", 0)):
        images = opened(path)
        assert images.images.names == open_container(path).names
        assert images.count == 6 + linked
        assert len(set(images.classes or ())) == 3 + bool(linked)
    (folder / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "b/gone.png" in open_container(folder).names
    with pytest.raises(MdtError, match=r"b/gone.png cannot be read"):
        opened(folder)


@pytest.mark.parametrize("name", ["set.zip", "stored.npz", "packed.npz"])
def test_spans_are_read_from_the_file_that_was_opened_once(tmp_path: Path, name: str) -> None:
    stacked = np.stack([array(k) for k in range(9)])
    write_zip(tmp_path / "set.zip", {f"{k}.png": png(k) for k in range(9)})
    np.savez(tmp_path / "stored.npz", arr_0=stacked)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=stacked)
    images = opened(tmp_path / name)
    first = list(images.read(range(0, 2)))
    (tmp_path / name).unlink()
    for span in (range(2, 4), range(7, 9), range(1, 3), [0, 4, 8]):
        for position, (name_of, raw) in zip(span, images.read(span), strict=True):
            np.testing.assert_array_equal(images.decode(name_of, raw), stacked[position])
    images.close()
    assert len(first) == 2


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(array(0, channels=1))
    colour = Image.fromarray(array(1))
    clear = colour.copy()
    clear.putalpha(128)
    files = {
        "a.png": encoded(grey),
        "b.png": encoded(colour.convert("P")),
        "c.png": encoded(clear),
    }
    shown = pixels(opened(write_folder(tmp_path, files)))
    assert all(image.shape == (16, 16, 3) and image.dtype == np.uint8 for image in shown)
    np.testing.assert_array_equal(shown[0], np.repeat(array(0, channels=1)[..., None], 3, 2))
    over_white = (array(1).astype(int) * 128 + 255 * 127 + 127) // 255
    # Pillow's blend rounds in steps of its own: one level.
    assert np.abs(shown[2].astype(int) - over_white).max() <= 1


def test_an_npz_of_other_pixels_is_another_set(tmp_path: Path) -> None:
    digests = []
    for value in (0, 1, 0):
        rows = np.zeros((3, 8, 8, 3), np.uint8)
        rows[2, 0, 0, 0] = value
        np.savez(tmp_path / "s.npz", arr_0=rows)
        digests.append(open_images(tmp_path / "s.npz").digest)
    assert digests[0] == digests[2] != digests[1]


def test_a_grey_npz_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.savez(tmp_path / "g.npz", arr_0=grey)
    np.testing.assert_array_equal(pixels(opened(tmp_path / "g.npz"))[1], grey[1].repeat(3, 2))


def test_missing_empty_and_foreign_paths(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="no such folder or file"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MdtError, match="empty holds no images"):
        opened(tmp_path / "empty")
    with pytest.raises(MdtError, match=r"empty.zip holds no images"):
        opened(write_zip(tmp_path / "empty.zip", {"readme.txt": b""}))
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(MdtError, match="neither a folder nor a zip, tar, parquet, npz, npy, idx"):
        opened(tmp_path / "text.txt")
    whole = write_zip(tmp_path / "cut.zip", {"a.png": png(0)}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:100])
    with pytest.raises(MdtError, match="not a readable zip"):
        opened(tmp_path / "cut.zip")


def test_mixed_sizes_are_listed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": png(0), "b.png": png(1), "c.png": png(2, 8, 9)})
    with pytest.raises(MdtError, match=r"different sizes: 2 of 16x16 \(a.png\), 1 of 8x9 \(c.png"):
        opened(tmp_path)


def test_one_broken_png_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": png(0), "b.png": b"not a picture"})
    with pytest.raises(MdtError, match=r"b.png cannot be read: not an image of a known format"):
        opened(tmp_path)
    (tmp_path / "b.png").write_bytes(png(1, 16, 16)[:-60])
    images = opened(tmp_path)
    with pytest.raises(MdtError, match=r"b.png cannot be read"):
        pixels(images)


def test_broken_npz_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    np.savez(file, arr_0=np.zeros((4, 8, 8, 3), np.float32))
    with pytest.raises(MdtError, match=r"arr_0 is float32 \[4, 8, 8, 3\]"):
        opened(file)
    np.savez(file, arr_0=np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(MdtError, match="holds no images"):
        opened(file)
    np.savez(file, images=np.zeros(3))
    with pytest.raises(MdtError, match=r"has no arr_0 \(it holds images \[3\]\)"):
        opened(file)
    np.savez(file, arr_0=np.asfortranarray(np.zeros((4, 8, 8, 3), np.uint8)))
    with pytest.raises(MdtError, match="column by column"):
        opened(file)
    np.savez(file, arr_0=np.zeros((40, 8, 8, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(MdtError, match="not a readable npz"):
        opened(file)


def test_an_npz_with_fewer_rows_than_promised(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", arr_0=np.ones((4, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        data = archive.read("arr_0.npy")
    short = opened(write_zip(tmp_path / "short.npz", {"arr_0.npy": data[:-200]}))
    with pytest.raises(MdtError, match=r"ends after [23] of 4 rows"):
        pixels(short)


def test_the_digest_sees_pixels_and_shape_only() -> None:
    assert pixel_digest(array(0)) == pixel_digest(np.asfortranarray(array(0)))
    assert pixel_digest(array(0)) != pixel_digest(array(1))
    flat = np.zeros((2, 8, 3), np.uint8)
    assert pixel_digest(flat) != pixel_digest(flat.reshape(4, 4, 3))
