import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.artifacts.open_images import open_images
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Note, Warned
from mdt_cli.services.sample import sample as service
from tests.services.sampled import contents, manifest, pixels, run
from tests.services.tiny_weights import NAMES, SIDE, write_weights


def test_a_folder_of_seeds(request_):
    done, _ = run(request_)
    names = sorted(contents(request_.out))
    assert names == [*(f"{seed:06d}.png" for seed in range(10)), "samples.json"]
    assert (done.count, done.drawn, done.path) == (10, 10, str(request_.out))
    with Image.open(request_.out / "000003.png") as image:
        assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")
        said = json.loads(image.info["mdt"])
    facts = manifest(request_.out)
    assert said["seed"] == 3
    assert said["label"] == facts["labels"][3]
    assert said["class"] == NAMES[facts["labels"][3]]
    assert said["settings"]["weights"] == facts["weights"]
    assert facts["sampler"] == {"solver": "euler", "steps": 4, "clip": False}
    assert facts["guidance"] == {"kind": "none"}
    assert (facts["seeds"], facts["count"], facts["uint8"]) == ("0-9", 10, "round")
    assert (facts["ema"], facts["step"], facts["class_names"]) == ("0.9999", 7, list(NAMES))
    assert facts["kind"] == "png"


def test_the_weights_digest_is_that_of_the_file(request_, weights):
    import hashlib

    run(request_)
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest(request_.out)["weights"] == expected


def test_pictures_differ_and_depend_on_their_seed_alone(request_, tmp_path):
    run(request_)
    other = replace(request_, out=tmp_path / "other", seeds="20,7,3", batch_size=2)
    run(other)
    for seed in (3, 7):
        ours, theirs = (pixels(f.out / f"{seed:06d}.png").astype(int) for f in (request_, other))
        # Another batch size rounds differently: at most one level, in few places.
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() < 0.01
    assert not np.array_equal(
        pixels(request_.out / "000003.png"), pixels(request_.out / "000007.png")
    )


def test_classes_are_dealt_by_seed(request_):
    run(replace(request_, classes="dog,ant,2", seeds="5,0-2"))
    # Seed k has entry k modulo 3: 5 -> 2, 0 -> dog, 1 -> ant, 2 -> 2.
    assert manifest(request_.out)["labels"] == [2, 3, 0, 2]
    with Image.open(request_.out / "000000.png") as image:
        assert json.loads(image.info["mdt"])["class"] == "dog"


def test_the_class_changes_the_picture(request_, tmp_path):
    run(replace(request_, classes="ant", seeds="1"))
    run(replace(request_, classes="dog", seeds="1", out=tmp_path / "dog"))
    assert not np.array_equal(
        pixels(request_.out / "000001.png"), pixels(tmp_path / "dog" / "000001.png")
    )


def test_npz_holds_the_same_pixels_in_the_order_of_the_seeds(request_, tmp_path):
    run(replace(request_, seeds="9,2-7"))
    npz = replace(request_, seeds="9,2-7", out=tmp_path / "npz", format="npz")
    done, _ = run(npz)
    file = npz.out / "samples_7x8x8x3.npz"
    assert done.path == str(file)
    assert sorted(contents(npz.out)) == ["samples.json", "samples_7x8x8x3.npz"]
    assert [path.name for path in npz.out.iterdir() if path.is_dir()] == []
    with np.load(file) as stored:
        assert stored["arr_0"].dtype == np.uint8
        assert stored["arr_1"].dtype == np.int64
        assert stored["arr_1"].tolist() == manifest(npz.out)["labels"]
        for row, seed in enumerate([9, 2, 3, 4, 5, 6, 7]):
            assert np.array_equal(stored["arr_0"][row], pixels(request_.out / f"{seed:06d}.png"))
    assert manifest(npz.out)["file"] == file.name


def test_numbers_that_name_other_classes_are_said(request_, tmp_path):
    path = write_weights(tmp_path / "n.safetensors", class_names=("0", "1", "10", "2"))
    request = replace(request_, weights=path, seeds="0-2", out=tmp_path / "n")
    _, events = run(replace(request, classes="0-2"))
    said = [event.text for event in events if isinstance(event, Warned)]
    assert said == ["--classes 0-2: 0-2 are indices, named 0, 1, 10 (=NAME asks for a name)"]
    _, events = run(replace(request, classes="=2,=10", out=tmp_path / "m"))
    assert not any(isinstance(event, Warned) for event in events)
    assert manifest(tmp_path / "m")["labels"] == [3, 2, 3]


def test_a_network_without_classes(request_, tmp_path):
    path = write_weights(tmp_path / "u.safetensors", conditional=False)
    run(replace(request_, weights=path))
    assert manifest(request_.out)["labels"] is None
    npz = replace(request_, weights=path, out=tmp_path / "npz", format="npz")
    run(npz)
    with np.load(npz.out / "samples_10x8x8x3.npz") as stored:
        assert stored.files == ["arr_0"]
    with pytest.raises(MdtError, match="--guidance 2: this network was trained without classes"):
        run(replace(request_, weights=path, guidance=2.0))
    with pytest.raises(MdtError, match="--classes 0: this network was trained without classes"):
        run(replace(request_, weights=path, classes="0"))


def test_a_recipe_with_guidance_on_data_without_classes_is_told(request_, tmp_path):
    path = write_weights(
        tmp_path / "u.safetensors",
        conditional=False,
        sampling={"guidance": {"kind": "constant", "scale": 2.0}},
    )
    _, events = run(replace(request_, weights=path))
    assert any(isinstance(event, Note) and "guidance is ignored" in event.text for event in events)
    assert manifest(request_.out)["guidance"] == {"kind": "none"}


def test_guidance_without_class_dropout_is_warned_of(request_, tmp_path):
    path = write_weights(tmp_path / "d.safetensors", class_dropout=0.0)
    _, events = run(replace(request_, weights=path, guidance=2.0))
    assert any(isinstance(event, Warned) and "class_dropout 0" in event.text for event in events)
    _, events = run(replace(request_, weights=path, out=tmp_path / "plain"))
    assert not any(isinstance(event, Warned) for event in events)


def test_the_uint8_rule_is_the_runs(request_, tmp_path):
    path = write_weights(tmp_path / "t.safetensors", sampling={"uint8": "truncate"})
    run(request_)
    run(replace(request_, weights=path, out=tmp_path / "cut"))
    gap = pixels(request_.out / "000001.png").astype(int) - pixels(tmp_path / "cut" / "000001.png")
    assert set(np.unique(gap).tolist()) == {0, 1}
    assert manifest(tmp_path / "cut")["uint8"] == "truncate"


def test_joining_needs_one_batch_of_memory(request_, monkeypatch):
    """The largest array ever read while joining is a part."""
    sizes, true_load = [], np.load

    def load(path, **rest):
        array = true_load(path, **rest)
        sizes.append(array.shape[0])
        return array

    monkeypatch.setattr(np, "load", load)
    run(replace(request_, format="npz"))
    assert sizes == [4, 4, 2]


def test_the_grid_has_a_row_per_class(request_, tmp_path):
    done, _ = run(replace(request_, classes="all", grid=True))
    assert done.grid == str(request_.out / "grid.png")
    with Image.open(done.grid) as grid:
        # 10 seeds over 4 classes: three in the longest row.
        assert grid.height == 2 * 6 + 4 * 48 + 3 * 2
        by_png = np.asarray(grid)
    npz = replace(request_, classes="all", grid=True, out=tmp_path / "npz", format="npz")
    done, _ = run(npz)
    assert np.array_equal(pixels(done.grid), by_png)
    # Again, from the joined file.
    done, _ = run(npz)
    assert np.array_equal(pixels(done.grid), by_png)


def test_a_long_grid_is_cut_and_says_so(request_, monkeypatch):
    monkeypatch.setattr(service, "GRID_COLUMNS", 2)
    _, events = run(replace(request_, grid=True))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["the grid shows the first 4 of 10 images"]
    _, events = run(replace(request_, grid=True, out=request_.out.parent / "c", classes="all"))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["the grid shows 8 of 10 images, 4 classes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": "5-1"}, "runs backwards"),
        ({"format": "jpg"}, "--format jpg: no such format"),
        ({"batch_size": 0}, "--batch-size 0 is not above 0"),
        ({"weights": Path("nowhere")}, "no such run or weights: nowhere"),
        ({"classes": "7"}, "class 7 is out of range"),
        ({"classes": "anti"}, 'no class "anti"'),
        ({"solver": "ddpm"}, '"ddpm" is for the epsilon objective'),
        ({"solver": "eular"}, "did you mean euler?"),
        ({"codec": "somewhere"}, "the latents are pixels"),
        ({"device": "abacus"}, "no such device: abacus"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(request_, change, message):
    with pytest.raises(MdtError) as caught:
        run(replace(request_, **change))
    assert message in caught.value.message or message in (caught.value.hint or "")
    assert not request_.out.exists()


def test_a_run_without_a_checkpoint(request_, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(MdtError, match="has no checkpoint yet"):
        run(replace(request_, weights=tmp_path / "run"))


def test_a_folder_with_something_else_is_left_alone(request_):
    request_.out.mkdir()
    (request_.out / "thesis.txt").write_text("chapter 1")
    with pytest.raises(MdtError, match=r"holds thesis.txt"):
        run(request_)
    with pytest.raises(MdtError, match=r"holds thesis.txt"):
        run(replace(request_, format="npz"))
    assert contents(request_.out) == {"thesis.txt": b"chapter 1"}


def test_a_picture_from_elsewhere_is_not_taken_for_a_sample(request_):
    request_.out.mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(request_.out / "000003.png")
    with pytest.raises(MdtError, match=r"000003.png was not written by mdt sample"):
        run(request_)


def test_png_and_npz_do_not_mix(request_):
    run(request_)
    with pytest.raises(MdtError, match=r"holds 000000.png, which does not belong to this job"):
        run(replace(request_, format="npz"))


def test_a_target_that_is_a_file(request_):
    request_.out.write_text("mine")
    with pytest.raises(MdtError, match="out is a file"):
        run(request_)
    assert request_.out.read_text() == "mine"


def test_an_unwritable_target(request_):
    with pytest.raises(MdtError, match="cannot write /proc/nothing"):
        run(replace(request_, out=Path("/proc/nothing")))


def test_a_full_disk_is_told_and_leaves_whole_pictures(request_, monkeypatch):
    true_save, count = Image.Image.save, []

    def save(self, path, **rest):
        count.append(1)
        if len(count) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        true_save(self, path, **rest)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(MdtError, match="the disk is full"):
        run(request_)
    assert sorted(contents(request_.out)) == ["000000.png", "000001.png"]


def test_weights_that_give_nan_are_told(request_, tmp_path):
    path = write_weights(tmp_path / "w.safetensors", spread=1e30)
    with pytest.raises(MdtError, match="seed 0 gave NaN or infinite values"):
        run(replace(request_, weights=path))
    assert contents(request_.out) == {}


def test_memory_that_is_too_small_is_told(request_, monkeypatch):
    def decode(self, latents):
        raise torch.OutOfMemoryError("out")

    monkeypatch.setattr("mdt_cli.core.codecs.pixels.PixelCodec.decode", decode)
    with pytest.raises(MdtError, match="a batch of 4 images does not fit") as caught:
        run(request_)
    assert "--batch-size 2" in caught.value.hint


def test_what_a_system_adds_to_a_folder_of_samples_is_ignored(request_, tmp_path):
    request = replace(request_, format="npz")
    run(request)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (request.out / name).write_bytes(b"\0")
    held = next(request.out.glob("samples_*.npz"))
    (request.out / f"._{held.name}").write_bytes(b"\0\5\x16\7")
    done, _ = run(request)
    assert done.drawn == 0
    assert len(open_images(request.out)) == 10
