import numpy as np
import torch
from PIL import Image

from mdt_cli.images.contact_sheet import GAP, MARGIN, save_grid, sheet, square
from mdt_cli.services.train.previews import labelled_grid


def tile(value, side=48):
    return np.full((side, side, 3), value, dtype=np.uint8)


def test_tiles_lie_in_their_rows_without_names():
    picture = np.asarray(sheet([[tile(10), tile(20)], [tile(30)]], None))
    assert picture.shape == (2 * MARGIN + 2 * 48 + GAP, 2 * MARGIN + 2 * 48 + GAP, 3)
    assert (picture[MARGIN : MARGIN + 48, MARGIN : MARGIN + 48] == 10).all()
    assert (picture[MARGIN : MARGIN + 48, MARGIN + 50 : MARGIN + 98] == 20).all()
    assert (picture[MARGIN + 50 : MARGIN + 98, MARGIN : MARGIN + 48] == 30).all()
    # The place of a missing image stays paper.
    assert (picture[MARGIN + 50 :, MARGIN + 50 :] == 255).all()


def test_small_images_are_enlarged_without_smoothing():
    small = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    picture = np.asarray(sheet([[small]], None))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.array_equal(picture, small.repeat(6, 0).repeat(6, 1))


def test_names_are_drawn_beside_their_rows_and_cut_when_long():
    rows = [[tile(0)], [tile(0)]]
    picture = np.asarray(sheet(rows, ["cat", ""]))
    left = picture.shape[1] - MARGIN - 48
    assert (picture[MARGIN : MARGIN + 48, :left] < 128).any()
    assert (picture[MARGIN + 50 :, :left] == 255).all()
    long = sheet(rows, ["a name of a class " * 20, "b"])
    assert long.width < 500


def test_a_preview_has_one_row_per_name(tmp_path):
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 48, 48)
    labelled_grid(tmp_path / "a.png", images, ["ant", "bee", "cat"], 2, "round")
    labelled_grid(tmp_path / "b.png", images, None, 3, "round")
    with Image.open(tmp_path / "a.png") as named, Image.open(tmp_path / "b.png") as plain:
        assert named.height == 2 * MARGIN + 3 * 48 + 2 * GAP
        assert plain.size == (2 * MARGIN + 3 * 48 + 2 * GAP, 2 * MARGIN + 2 * 48 + GAP)
        first = np.asarray(plain)[MARGIN + 5, MARGIN + 5]
        assert first.tolist() == [0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_square_is_as_wide_as_high():
    assert [len(row) for row in square([tile(0)] * 10)] == [4, 4, 2]
    assert [len(row) for row in square([tile(0)])] == [1]


def test_a_grid_replaces_an_older_one(tmp_path):
    for value in (1, 200):
        save_grid(tmp_path / "grid.png", [[tile(value)]], None)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.getpixel((MARGIN + 3, MARGIN + 3)) == (200, 200, 200)
