"""Colour profiles, 16 bits a channel, animated files: converted by a stated rule, and said."""

import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.decode import read_image, read_pixels
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.pixel_rule import FIRST_RULE, FULL_WHITE, RULE, PixelRule, known_rule
from mdt_cli.images.sized import sized
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import CacheDone, Note
from tests.pictures import array, encoded, png, write_folder


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def profile(
    gamma: float, space: bytes = b"RGB ", swapped: bool = False, name: str = "Odd"
) -> bytes:
    """A profile written by its specification: sRGB's primaries, of which two may be exchanged."""
    red, green, blue = (0.436, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    if swapped:
        red, blue = blue, red
    text = name.encode("ascii") + b"\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": desc, b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve(gamma)
    else:
        tags |= {b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))
    place, table, body = 132 + 12 * len(tags), b"", b""
    for key, data in tags.items():
        data += bytes(-len(data) % 4)
        table += key + struct.pack(">2I", place + len(body), len(data))
        body += data
    size = place + len(body)
    head = struct.pack(">I4s4s4s4s4s", size, bytes(4), b"\x02\x40\0\0", b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = profile(2.2, swapped=True)


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_converted_and_said(kind: str) -> None:
    """Against the closed form: linear values, through sRGB's own curve."""
    image = Image.fromarray(array(0))
    data = encoded(image, kind, icc_profile=profile(1.0), lossless=True)
    found = read_image(data, 16)
    expected = srgb_curve(array(0) / 255) * 255
    assert np.abs(found.pixels.transpose(1, 2, 0) - expected).max() <= 2
    assert found.mode == "RGB; ICC profile Odd to sRGB"
    assert np.array_equal(read_pixels(data), found.pixels.transpose(1, 2, 0))
    # What was begun by the first rule goes on by it.
    old = read_image(data, 16, FIRST_RULE)
    assert np.array_equal(old.pixels.transpose(1, 2, 0), array(0))
    assert old.mode == "RGB"


def test_exchanged_primaries_are_exchanged_back() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    pixel = read_pixels(encoded(red, icc_profile=SWAPPED))[0, 0]
    assert pixel[2] > 250
    assert max(pixel[:2]) < 5


def test_srgb_by_any_name_changes_nothing() -> None:
    for given in (SRGB, None):
        found = read_image(encoded(Image.fromarray(array(0)), icc_profile=given), 16)
        assert np.array_equal(found.pixels.transpose(1, 2, 0), array(0))
        assert found.mode == "RGB"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"no profile", "unreadable ICC profile left out"),
        (SWAPPED[:200], "unreadable ICC profile left out"),
        (profile(1.0, b"GRAY"), "ICC profile of another colour space left out"),
    ],
)
def test_a_profile_that_cannot_be_applied_is_left_out_and_said(given: bytes, said: str) -> None:
    found = read_image(encoded(Image.fromarray(array(0)), icc_profile=given), 16)
    assert np.array_equal(found.pixels.transpose(1, 2, 0), array(0))
    assert found.mode == f"RGB; {said}"


def test_the_name_of_a_profile_is_plain() -> None:
    given = profile(1.0, name="a\x1b[31m|<script>\n" + "x" * 80)
    mode = read_image(encoded(Image.fromarray(array(0)), icc_profile=given), 16).mode
    assert mode == f"RGB; ICC profile {('a31mscript' + 'x' * 80)[:40]} to sRGB"


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "P", "RGBA"])
def test_profiles_of_other_modes(mode: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    space = b"RGB " if mode in ("P", "RGBA") else b"GRAY"
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("P" if mode == "P" else mode)
    found = read_image(encoded(image, icc_profile=profile(1.0, space)), 16)
    expected = srgb_curve(grey / 255)[..., None].repeat(3, -1) * 255
    assert np.abs(found.pixels.transpose(1, 2, 0) - expected).max() <= 2
    assert found.mode.endswith("ICC profile Odd to sRGB")


def test_alpha_is_laid_over_white_after_the_conversion() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (read_pixels(encoded(clear, icc_profile=SWAPPED)) == 255).all()


def test_cmyk_with_a_profile_of_rgb_is_converted_plainly() -> None:
    image = Image.fromarray(array(0)).convert("CMYK")
    data = encoded(image, "JPEG", icc_profile=SWAPPED, quality=95)
    found = read_image(data, 16)
    assert found.mode == "CMYK; ICC profile of another colour space left out"
    assert np.array_equal(found.pixels, read_image(data, 16, FIRST_RULE).pixels)


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits in each of three channels, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def grey_png(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint16)))


TWELVE = np.random.default_rng(0).integers(0, 4096, (16, 16))
TWELVE[0, 0] = 4095


def test_16_bits_are_scaled_and_said() -> None:
    found = read_image(grey_png(TWELVE * 16), 16)
    assert found.mode == "I;16; 0..65535 to 0..255"
    assert np.array_equal(found.pixels[0], (TWELVE * 16 * 255 + 32767) // 65535)
    deep = np.stack([TWELVE * 16] * 3, -1)
    found = read_image(deep_png(deep), 16)
    assert found.mode == "RGB;16; upper 8 of 16 bits"
    assert np.array_equal(found.pixels[0], TWELVE * 16 // 256)
    assert read_image(grey_png(TWELVE), 16, FIRST_RULE).mode == "I;16"


def test_another_white() -> None:
    rule = replace(RULE, white=4095)
    found = read_image(grey_png(TWELVE), 16, rule)
    assert found.mode == "I;16; 0..4095 to 0..255"
    assert np.array_equal(found.pixels[0], np.floor(TWELVE * 255 / 4095 + 0.5))
    with pytest.raises(UnreadableError, match="above --white 4095"):
        read_image(grey_png(TWELVE + 1), 16, rule)
    with pytest.raises(UnreadableError, match="full range alone"):
        read_image(deep_png(np.stack([TWELVE] * 3, -1)), 16, rule)


def test_rules_are_found_by_their_text() -> None:
    for rule in (RULE, FIRST_RULE, PixelRule(white=4095), PixelRule(False, 1)):
        assert known_rule(rule.text) == rule
    with pytest.raises(MdtError, match="which this version does not know"):
        known_rule("upright")
    assert RULE.white == FULL_WHITE


def test_12_bits_stop_the_command_and_the_option_decides(tmp_path: Path) -> None:
    files = {f"{k}.png": grey_png(np.roll(TWELVE, k)) for k in range(3)}
    images = write_folder(tmp_path / "images", {**files, "8.png": png(0)})
    asked = EncodeRequest(images, tmp_path / "cache", size=16, workers=0)
    with pytest.raises(MdtError, match="stay below 4096") as caught:
        list(encode_latents(asked))
    assert "--white 4095" in str(caught.value.hint)
    assert not asked.cache.exists()
    with pytest.raises(MdtError, match="stay below 4096"):
        sized(open_container(images))
    asked = replace(asked, white=4095)
    events = list(encode_latents(asked))
    assert any(isinstance(e, Note) and "3 of 4 images (I;16)" in e.text for e in events)
    manifest = json.loads((asked.cache / "manifest.json").read_text())
    assert manifest["crop"].endswith("16 bits from 0..4095")
    assert manifest["modes"] == {"I;16; 0..4095 to 0..255": 3, "RGB": 1}
    # Resumed without the option, it goes on by the rule on record; another one is another cache.
    done = list(encode_latents(replace(asked, white=None)))[-1]
    assert isinstance(done, CacheDone)
    assert done.unchanged
    with pytest.raises(MdtError, match="was started with crop"):
        list(encode_latents(replace(asked, white=65535)))


def test_12_bits_in_colour_have_no_option(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", {"a.png": deep_png(np.stack([TWELVE] * 3, -1))})
    with pytest.raises(MdtError, match="stay below 4096") as caught:
        list(encode_latents(EncodeRequest(images, tmp_path / "cache", size=16, workers=0)))
    assert "to 8 bits, first" in str(caught.value.hint)


@pytest.mark.parametrize("white", [0, -1, 65536])
def test_a_white_outside_16_bits_is_refused(tmp_path: Path, white: int) -> None:
    with pytest.raises(MdtError, match=f"--white {white}"):
        list(encode_latents(EncodeRequest(tmp_path, tmp_path / "cache", white=white)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_said(kind: str) -> None:
    frames = [Image.fromarray(array(k)) for k in range(3)]
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    found = read_image(file.getvalue(), 16)
    assert found.mode.endswith("; first of several frames")
    if kind != "GIF":
        assert np.array_equal(found.pixels.transpose(1, 2, 0), array(0))


def test_a_cache_of_the_first_rule_goes_on_by_it(tmp_path: Path) -> None:
    """A shard that is made again has the pixels that it had: profiles ignored."""
    pixels = Image.fromarray(array(0))
    files = {f"{k}.png": encoded(pixels, icc_profile=SWAPPED) for k in range(4)}
    images = write_folder(tmp_path / "images", files)
    asked = EncodeRequest(images, tmp_path / "cache", size=16, workers=0, shard_size=2)
    list(encode_latents(asked))
    path = asked.cache / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["crop"] = FIRST_RULE.text
    path.write_text(json.dumps(manifest))
    (asked.cache / "shard-00001.safetensors").unlink()
    list(encode_latents(asked))
    from mdt_cli.artifacts.latent_cache.read import open_cache

    rows = open_cache(asked.cache).read(torch.arange(4))
    held = ((rows.mean + 1) * 127.5).round().numpy()
    assert np.array_equal(held[3].transpose(1, 2, 0), array(0))
    assert not np.array_equal(held[0].transpose(1, 2, 0), array(0))
