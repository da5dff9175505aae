"""Every mode ends as upright RGB, cropped as ADM crops; what cannot be used says why."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from mdt_cli.images import open_image as opening
from mdt_cli.images.decode import read_image, read_image_header, read_pixels
from mdt_cli.images.open_image import UnreadableError
from tests.pictures import array, encoded, png


def pixels(data: bytes, size: int = 16) -> np.ndarray:
    return read_image(data, size).pixels.transpose(1, 2, 0)


def test_rgb_of_the_right_size_is_untouched() -> None:
    picture = read_image(png(1), 16)
    assert np.array_equal(picture.pixels.transpose(1, 2, 0), array(1))
    assert (picture.mode, picture.enlarged) == ("RGB", False)


def test_grey_is_three_equal_channels() -> None:
    grey = array(2, channels=1)
    picture = read_image(encoded(Image.fromarray(grey)), 16)
    assert picture.mode == "L"
    assert all(np.array_equal(channel, grey) for channel in picture.pixels)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    out = pixels(encoded(Image.fromarray(deep)))[..., 0]
    assert np.array_equal(out, np.floor(deep / 65535 * 255 + 0.5).astype(np.uint8))
    assert out.min() == 0
    assert out.max() == 255
    assert len(np.unique(out)) == 256


def test_1_bit_is_black_and_white() -> None:
    out = pixels(encoded(Image.fromarray(array(3, channels=1) > 127)))
    assert np.array_equal(out[..., 0], (array(3, channels=1) > 127) * np.uint8(255))


@pytest.mark.parametrize(
    ("kind", "options", "lossy"),
    [
        ("TIFF", {"compression": "jpeg"}, True),
        ("TIFF", {"compression": "tiff_lzw"}, False),
        pytest.param(
            "AVIF", {}, True, marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF")
        ),
    ],
)
def test_what_lost_detail_is_known_whatever_holds_it(
    kind: str, options: dict[str, str], lossy: bool
) -> None:
    assert read_image_header(encoded(Image.fromarray(array(1)), kind, **options)).lossy == lossy


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    image = Image.fromarray(array(4)).convert(mode)
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, (0, 0, 8, 16))
    image.putalpha(alpha)
    out = pixels(encoded(image))
    assert (out[:, 8:] == 255).all()
    assert np.array_equal(out[:, :8], np.asarray(image.convert("RGB"))[:, :8])


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 8, 16))
    out = pixels(encoded(image, transparency=0))
    assert (out[:, :8] == 255).all()
    assert (out[:, 8:] == (40, 50, 60)).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = read_image(encoded(image, "JPEG", quality=95), 16)
    red, green, blue = picture.pixels.reshape(3, -1).mean(1)
    assert picture.mode == "CMYK"
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    out = pixels(encoded(Image.fromarray(array(5)), exif=exif))
    assert np.array_equal(out, np.rot90(array(5), -1))


def test_exif_rotation_of_a_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.new("RGB", (16, 16), "red")
    image.paste("blue", (0, 0, 16, 8))
    out = pixels(encoded(image, "JPEG", quality=95, exif=exif))
    assert out[:8, :, 0].mean() > 200
    assert out[8:, :, 2].mean() > 200


def test_float_pixels_need_a_known_range() -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    out = pixels(encoded(Image.fromarray(unit), "TIFF"))[..., 0]
    assert np.array_equal(out, np.rint(unit * 255).astype(np.uint8))
    with pytest.raises(UnreadableError, match=r"outside 0\.\.1"):
        read_image(encoded(Image.fromarray(unit * 300), "TIFF"), 16)


def test_crop_is_adms() -> None:
    """Against the rule written out: 100x70 to 16 is halved twice, then bicubic, then cropped."""
    image = Image.fromarray(array(6, 100, 70))
    halved = image.resize((50, 35), Image.Resampling.BOX)
    # 35 >= 2 * 16: once more.
    halved = halved.resize((25, 17), Image.Resampling.BOX)
    small = halved.resize((round(25 * 16 / 17), 16), Image.Resampling.BICUBIC)
    left = (small.width - 16) // 2
    expected = np.asarray(small)[:, left : left + 16]
    assert np.array_equal(pixels(encoded(image)), expected)


def test_small_picture_is_enlarged_and_says_so() -> None:
    picture = read_image(png(7, 5, 9), 16)
    assert picture.enlarged
    assert picture.pixels.shape == (3, 16, 16)


def test_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    with pytest.raises(UnreadableError, match="decompression bomb: 40x40"):
        read_image(png(8, 40, 40), 16)


def test_sliver_that_would_grow_into_a_bomb_is_refused() -> None:
    sliver = encoded(Image.new("L", (60_000, 1)))
    with pytest.raises(UnreadableError, match="decompression bomb"):
        read_image(sliver, 256)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"this is text", "not an image"),
        (encoded(Image.fromarray(array(9, 64, 64)), "JPEG")[:700], "truncated"),
        (png(9, 64, 64)[:3000], "truncated|broken|unexpected"),
    ],
)
def test_broken_data_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_image(data, 16)
    assert str(caught.value)


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(array(10, 24, 16)), kind, exif=exif)


def exif_behind_pixels(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    whole = png(10, 24, 16)
    return whole[:-12] + chunk + whole[-12:]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_in_the_header_is_that_of_the_upright_pixels(
    tmp_path: Path, orientation: int
) -> None:
    kinds = ["JPEG", "PNG", "WEBP", "TIFF"] + ["AVIF"] * features.check("avif")
    pictures = [turned(kind, orientation) for kind in kinds]
    for data in (*pictures, exif_behind_pixels(orientation)):
        (tmp_path / "picture").write_bytes(data)
        upright = (24, 16) if orientation in (6, 8) else (16, 24)
        for source in (data, tmp_path / "picture"):
            assert read_image_header(source).size == upright
            assert read_pixels(source).shape == (*upright, 3)


def test_lossy_pictures_are_known_by_their_bytes(tmp_path: Path) -> None:
    opaque, clear = Image.fromarray(array(11)), Image.fromarray(array(11, channels=4))
    for data, lossy in (
        (encoded(opaque, "JPEG"), True),
        (encoded(opaque, "MPO", save_all=True, append_images=[opaque]), True),
        (encoded(opaque, "WEBP", quality=80), True),
        (encoded(clear, "WEBP", quality=80), True),
        (encoded(opaque, "WEBP", lossless=True), False),
        (encoded(clear, "WEBP", lossless=True, icc_profile=bytes(200)), False),
        (encoded(opaque), False),
        (encoded(opaque, "TIFF"), False),
    ):
        (tmp_path / "picture.png").write_bytes(data)
        for source in (data, tmp_path / "picture.png"):
            assert read_image_header(source).lossy is lossy
            assert read_image_header(source).size == (16, 16)
