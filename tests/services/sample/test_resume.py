"""A stopped job goes on, other jobs keep away, and processes share the work."""

import json
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mdt_cli.artifacts.weights import read_header, read_tensors, save_weights
from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.errors import MdtError
from mdt_cli.services import meeting, work
from mdt_cli.services.events import SamplesDone
from mdt_cli.services.sample import sample as service
from mdt_cli.services.sample.sample import SampleRequest, sample
from tests.autoencoders import save_autoencoder
from tests.services.sampled import contents, manifest, run
from tests.services.tiny_weights import write_weights


def test_a_lost_and_a_broken_picture_are_drawn_again_and_nothing_else(request_):
    run(request_)
    before = contents(request_.out)
    kept_time = (request_.out / "000000.png").stat().st_mtime_ns
    (request_.out / "000001.png").unlink()
    for cut in (8, 40, len(before["000006.png"]) - 3):
        (request_.out / "000006.png").write_bytes(before["000006.png"][:cut])
        done, _ = run(request_)
        assert contents(request_.out) == before
    flipped = bytearray(before["000006.png"])
    flipped[-30] ^= 1
    (request_.out / "000006.png").write_bytes(bytes(flipped))
    done, _ = run(request_)
    assert done.drawn == 1
    assert contents(request_.out) == before
    assert (request_.out / "000000.png").stat().st_mtime_ns == kept_time


def test_a_batch_is_drawn_again_whole(request_, monkeypatch):
    """Its company decides how the arithmetic rounds, so one lost picture asks for all of it."""
    run(request_)
    (request_.out / "000005.png").unlink()
    true_call, calls = service._Drawing.__call__, []

    def listening(self, job, positions):
        calls.append(positions)
        return true_call(self, job, positions)

    monkeypatch.setattr(service._Drawing, "__call__", listening)
    done, _ = run(request_)
    assert calls == [range(4, 8)]
    assert done.drawn == 1


def test_a_finished_job_check_restoring(request_):
    run(request_)
    done, _ = run(request_)
    assert (done.count, done.drawn) == (10, 0)


def test_more_seeds_join_the_folder(request_):
    run(replace(request_, seeds="0-7"))
    before = contents(request_.out)
    done, _ = run(replace(request_, seeds="0-11"))
    assert done.drawn == 4
    after = contents(request_.out)
    assert all(after[name] == data for name, data in before.items() if name != "samples.json")
    assert manifest(request_.out)["seeds"] == "0-11"
    with pytest.raises(MdtError, match=r"holds 000004.png, a seed that was not requested"):
        run(replace(request_, seeds="0-3"))


def test_a_manifest_that_no_longer_holds_is_gone_while_more_is_drawn(request_, monkeypatch):
    run(replace(request_, seeds="0-7"))
    monkeypatch.setattr(service._Drawing, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(replace(request_, seeds="0-11"))
    assert not (request_.out / "samples.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 5}, "sampler.steps: 4 there, 5 now"),
        ({"solver": "heun"}, "sampler.solver: euler there, heun now"),
        ({"guidance": 3.0}, "guidance.kind: none there, constant now"),
        ({"classes": "dog"}, "class: "),
    ],
)
@pytest.mark.parametrize("format", ["png", "npz"])
def test_other_settings_need_another_folder(request_, change, words, format):
    run(replace(request_, format=format))
    before = contents(request_.out)
    with pytest.raises(MdtError, match="other settings") as caught:
        run(replace(request_, format=format, **change))
    if format == "png" or "classes" not in change:
        assert words in caught.value.message
    assert "another folder" in caught.value.hint
    assert contents(request_.out) == before


def test_other_weights_need_another_folder(request_, tmp_path):
    run(request_)
    other = write_weights(tmp_path / "o.safetensors", spread=0.05)
    with pytest.raises(MdtError, match=r"weights: .* there, .* now"):
        run(replace(request_, weights=other))


def test_npz_goes_on_from_its_parts(request_, tmp_path, monkeypatch):
    whole = replace(request_, out=tmp_path / "whole", format="npz")
    run(whole)
    stopped = replace(request_, format="npz")
    true_call, calls = service._Drawing.__call__, []

    def failing(self, job, positions):
        calls.append(positions)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true_call(self, job, positions)

    monkeypatch.setattr(service._Drawing, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert sorted(path.name for path in (stopped.out / "parts").iterdir()) == [
        "part-000000.npy",
        "part-000001.npy",
        "settings.json",
    ]
    assert not (stopped.out / "samples.json").exists()
    cut = stopped.out / "parts" / "part-000001.npy"
    cut.write_bytes(cut.read_bytes()[:-1])
    done, _ = run(stopped)
    assert done.drawn == 6
    assert calls[3:] == [range(4, 8), range(8, 10)]
    name = "samples_10x8x8x3.npz"
    with zipfile.ZipFile(whole.out / name) as archive:
        # A date of its own would make two files of the same samples differ.
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert (stopped.out / name).read_bytes() == (whole.out / name).read_bytes()
    done, _ = run(stopped)
    assert done.drawn == 0


@pytest.fixture
def together(monkeypatch):
    """Processes that are run one after the other here are taken for present."""
    monkeypatch.setattr(meeting, "is_held", lambda target, is_folder, rank=0: True)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_processes_share_the_batches_out(request_, tmp_path, monkeypatch, format, together):
    alone = replace(request_, out=tmp_path / "alone", format=format)
    run(alone)
    shared = replace(request_, format=format)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "1"):
        monkeypatch.setenv("RANK", rank)
        assert not any(isinstance(event, SamplesDone) for event in sample(shared))
    assert not (shared.out / "samples.json").exists()
    monkeypatch.setenv("RANK", "0")
    done, _ = run(shared)
    assert done.drawn == 4
    assert contents(shared.out) == contents(alone.out)


def test_the_first_process_waits_for_whole_files(request_, monkeypatch, together):
    """It looks again until what the others owe is there, and a broken file is not there."""
    monkeypatch.setattr(work, "SECONDS_BETWEEN_POLLS", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    list(sample(request_))
    whole = (request_.out / "000005.png").read_bytes()
    (request_.out / "000005.png").write_bytes(whole[:50])
    monkeypatch.setenv("RANK", "0")
    waited = 0
    for event in sample(request_):
        if getattr(event, "note", "") == "all processes" and event.done < 10:
            waited += 1
            assert not (request_.out / "samples.json").exists()
            if waited == 3:
                (request_.out / "000005.png").write_bytes(whole)
    assert waited == 3
    assert (request_.out / "samples.json").exists()


@pytest.mark.parametrize("form", ["png", "npz"])
def test_the_scores_of_a_folder_do_not_keep_it_from_going_on(request_, form):
    run(replace(request_, format=form))
    for name in ("report.json", "report.html"):
        (request_.out / name).write_text("{}")
    (request_.out / "report.work").mkdir()
    done, _ = run(replace(request_, format=form))
    assert done.drawn == 0


def test_npz_parts_of_processes_with_other_weights_do_not_join(
    request_, tmp_path, monkeypatch, together
):
    """A checkpoint may be written between the looks of two processes; neither looks twice."""
    later = write_weights(tmp_path / "later.safetensors", spread=0.05)
    first = replace(request_, format="npz")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    slower = sample(replace(first, weights=later))
    # Its look at the folder, before anybody has written.
    next(slower)
    monkeypatch.setenv("RANK", "0")
    faster = sample(first)
    while not list((first.out / "parts").glob("part-*")):
        next(faster)
    with pytest.raises(MdtError, match=r"weights: .* there, .* now"):
        list(slower)
    assert [path.name for path in (first.out / "parts").glob("part-*")] == ["part-000000.npy"]
    faster.close()


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_folder_of_an_earlier_version_goes_on(tmp_path, format):
    """It did not say clip and spacing, nor the digest of an imported model's autoencoder."""
    codec = open_codec(save_autoencoder(tmp_path / "vae"), torch.device("cpu"))
    path = write_weights(
        tmp_path / "w.safetensors",
        {"kind": "epsilon", "num_timesteps": 50},
        sampling={"spacing": "ends"},
        codec={**codec.facts(), "weights_sha256": None},
        latent_shape=codec.latent_shape(16),
        image_size=16,
    )
    request = SampleRequest(
        path, tmp_path / "out", seeds="0-1", format=format, batch_size=2, device="cpu"
    )
    run(request)
    said = manifest(request.out)
    assert said["precision"] == "float32"
    assert (said["sampler"]["clip"], said["sampler"]["spacing"]) == (False, "ends")
    _forget(request.out)
    done, _ = run(request)
    assert done.drawn == 0
    _forget(request.out)
    clipped = write_weights(
        path,
        {"kind": "epsilon", "num_timesteps": 50},
        sampling={"clip": True, "spacing": "trailing"},
        codec={**codec.facts(), "weights_sha256": None},
        latent_shape=codec.latent_shape(16),
        image_size=16,
    )
    with pytest.raises(MdtError) as caught:
        run(replace(request, weights=clipped))
    assert "sampler.clip: False there, True now" in caught.value.message
    assert "sampler.spacing: ends there, trailing now" in caught.value.message


def _forget(folder):
    """Rewrite what the folder says as the earlier version said it."""

    def cut(settings):
        settings["sampler"] = {
            key: value
            for key, value in settings["sampler"].items()
            if key not in ("clip", "spacing")
        }
        settings["codec"]["weights_sha256"] = None

    place = folder / "samples.json"
    if place.exists():
        facts = json.loads(place.read_text())
        cut(facts)
        place.write_text(json.dumps(facts))
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            image.load()
            text = json.loads(image.info["mdt"])
            cut(text["settings"])
            info = PngInfo()
            info.add_itxt("mdt", json.dumps(text))
            image.save(picture, pnginfo=info)


@pytest.mark.parametrize("recorded", [True, False])
def test_weights_of_version_0_1_keep_its_times(tmp_path, recorded):
    """27 steps of 50 times visit others than now; weights older than the key do not name them."""
    objective = {"kind": "epsilon", "num_timesteps": 1000}
    path = write_weights(tmp_path / "w.safetensors", objective, sampling={"spacing": "ends"})
    if not recorded:
        header, tensors = read_header(path), read_tensors(path)
        sampling = {k: v for k, v in header.config["sampling"].items() if k != "spacing"}
        old = replace(header, config={**header.config, "sampling": sampling})
        save_weights(path, tensors, old)
    request = SampleRequest(path, tmp_path / "out", seeds="0-3", steps=27, device="cpu")
    run(request)
    assert manifest(request.out)["sampler"]["spacing"] == "ends"
    before = contents(request.out)
    (request.out / "000002.png").unlink()
    run(request)
    assert contents(request.out) == before
    now = write_weights(tmp_path / "now.safetensors", objective)
    new = replace(request, weights=now, out=tmp_path / "new")
    run(new)
    assert manifest(new.out)["sampler"]["spacing"] == "respaced"
    assert contents(new.out)["000000.png"] != before["000000.png"]
    with pytest.raises(MdtError) as caught:
        run(replace(request, weights=now))
    assert "sampler.spacing: ends there, respaced now" in caught.value.message
