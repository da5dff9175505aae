"""Images are opened in one place: an allow-list of formats, and a limit on memory and time."""

import io
import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.cli.app import run as mdt
from mdt_cli.images import decode
from mdt_cli.images import open_image as opening
from mdt_cli.images.decode import read_image, read_image_header, read_pixels, stored_size
from mdt_cli.images.open_image import FORMATS, UnreadableError, open_image
from mdt_cli.services.inspection.inspect import inspect
from tests.pictures import array, encoded, png, write_folder

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
%%EndComments
(/dev/null) (r) file
showpage
%%EOF
"""


def saved(form: str, mode: str = "RGB", side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), 1).save(file, form)
    return file.getvalue()


def fake_ghostscript(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gs` that leaves a mark when it is started."""
    mark = folder / "started"
    program = folder / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {mark}\n[ "$1" = --version ]\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return mark


def test_postscript_named_png_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = fake_ghostscript(tmp_path, monkeypatch)
    images = tmp_path / "images"
    write_folder(images, {"a.png": png(0), "b.png": png(1), "c.png": EPS})
    with Image.open(images / "c.png") as image, pytest.raises(subprocess.CalledProcessError):
        image.load()
    assert mark.is_file(), "the test itself must be able to start it"
    mark.unlink()
    for call in (
        lambda: read_image(EPS, 8),
        lambda: read_pixels(images / "c.png"),
        lambda: read_image_header(EPS),
        lambda: stored_size(images / "c.png"),
    ):
        with pytest.raises(UnreadableError, match="not an image of a known format"):
            call()
    mdt(["inspect", str(images)])
    mdt(["inspect", str(images / "c.png")])
    words = ["encode-latents", str(images), str(tmp_path / "cache"), "--size", "8"]
    assert mdt([*words, "--unconditional", "--workers", "0"]) == 0
    assert "c.png: not an image of a known format" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("form", ["PCX", "SGI", "ICO", "PDF", "IM", "SPIDER", "MSP", "XBM"])
def test_other_formats_of_pillow_are_refused(form: str) -> None:
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(form, "RGB")
    with pytest.raises(UnreadableError, match="not an image of a known format"):
        read_image(saved(form, mode), 8)


@pytest.mark.parametrize("form", sorted({*FORMATS, "MPO"}))
def test_formats_of_the_list_are_read(form: str) -> None:
    if form not in Image.SAVE and form not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow cannot write {form}")
    assert read_image(saved(form), 8).pixels.shape == (3, 8, 8)
    assert read_image_header(saved(form)).size == (16, 16)


def test_no_file_is_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": png(0)})
    os.mkfifo(tmp_path / "b.png")
    found = inspect(tmp_path)
    assert found.facts["unreadable"] == ["b.png"]


@pytest.mark.parametrize(("form", "share"), [("WEBP", 2), ("AVIF", 2), ("JPEG2000", 3), ("PNG", 1)])
def test_decoders_that_need_more_memory_read_fewer_pixels(
    form: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(form, side=32)
    monkeypatch.setattr(opening, "MAX_PIXELS", 32 * 32 * share)
    assert read_image(data, 8)
    monkeypatch.setattr(opening, "MAX_PIXELS", 32 * 32 * share - 1)
    with pytest.raises(UnreadableError, match="decompression bomb: 32x32 is more than"):
        read_image(data, 8)
    assert stored_size(data) == (32, 32)


def test_a_jpeg_of_many_passes_is_refused() -> None:
    """Each pass costs 100 bytes in the file and a walk over all its pixels."""
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000), (1, 2, 3)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert read_image(data, 8).mode == "RGB"
    last = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(UnreadableError, match="1010 passes over 4000x4000 pixels"):
        read_image(data[:-2] + last * 1000 + data[-2:], 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F"])
def test_strips_change_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = array(3, 40, 30)
    if mode == "F":
        image = Image.fromarray(values[..., 0].astype(np.float32) / 255)
    elif mode.startswith("I"):
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(values).quantize(40)
        image.info["transparency"] = 3
    else:
        image = Image.fromarray(np.dstack([values, values[..., :1]])).convert(mode)
    data = encoded(image, "TIFF" if mode == "F" else "PNG")
    whole = read_pixels(data)
    monkeypatch.setattr(decode, "STRIP_PIXELS", 100)
    assert np.array_equal(read_pixels(data), whole)


def test_faults_of_the_block_are_of_the_image() -> None:
    with pytest.raises(UnreadableError, match="truncated"), open_image(png(0)[:-40]) as image:
        image.load()
    with pytest.raises(UnreadableError, match="more memory"), open_image(png(0)):
        raise MemoryError
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(KeyboardInterrupt), open_image(png(0), limited=False):
        raise KeyboardInterrupt
    assert limit == Image.MAX_IMAGE_PIXELS
