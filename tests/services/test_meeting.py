"""RANK and WORLD_SIZE that something else left in the environment."""

import time
from dataclasses import replace

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.locks import present, writing_folder
from mdt_cli.services import meeting
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.events import Warned
from mdt_cli.services.meeting import Meeting
from mdt_cli.services.sample.sample import sample
from mdt_cli.services.work import Share
from tests.services.training_kit import make_images


@pytest.fixture
def soon(monkeypatch):
    """A patience of parts of a second."""
    monkeypatch.setattr(meeting, "SECONDS_UNTIL_NOTE", 0.1)
    monkeypatch.setattr(meeting, "SECONDS_UNTIL_END", 0.5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def stage(name, request_, tmp_path):
    if name == "sample":
        return sample(request_)
    images = make_images(tmp_path / "images", per_class=3)
    if name == "encode":
        cache = tmp_path / "cache"
        return encode_latents(EncodeRequest(images, cache, size=8, workers=0, shard_size=2))
    request = EvaluateRequest(images, images, out=tmp_path / "report.json", device="cpu")
    return evaluate(replace(request, extractor="efficientnet-lite0"))


@pytest.mark.parametrize(
    ("name", "rank"),
    [("sample", "0"), ("sample", "1"), ("encode", "0"), ("encode", "1"), ("evaluate", "0")],
)
def test_a_process_that_waits_for_nobody_says_so_and_ends(
    name, rank, request_, tmp_path, monkeypatch, soon
):
    monkeypatch.setenv("RANK", rank)
    told = []
    with pytest.raises(MdtError) as refused:
        told.extend(stage(name, request_, tmp_path))
    other = "1" if rank == "0" else "0"
    assert f"RANK={rank} and WORLD_SIZE=2 in the environment say" in refused.value.message
    assert f"that of RANK {other} is not running" in refused.value.message
    assert refused.value.hint.endswith("first run: unset RANK WORLD_SIZE MASTER_ADDR")
    if rank == "1" and name == "sample":
        # Nothing was generated of which the other part will never come.
        assert not request_.out.exists()


def test_features_made_alone_are_kept_with_a_warning(request_, tmp_path, monkeypatch, soon):
    """The first process may come later and uses them."""
    monkeypatch.setenv("RANK", "1")
    events = list(stage("evaluate", request_, tmp_path))
    said = [event.text for event in events if isinstance(event, Warned) and event.from_all]
    assert len(said) == 1
    assert "RANK 0 is not running: this process did its own part only" in said[0]


def test_the_warning_comes_once_and_from_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS_UNTIL_NOTE", 0.05)
    met = Meeting(Share(1, 4), tmp_path, is_folder=True)
    seen = []
    for _ in range(4):
        seen += list(met.check([0]))
        time.sleep(0.03)
    assert [(event.from_all, "RANK 0 is not running" in event.text) for event in seen] == [
        (True, True)
    ]
    assert isinstance(seen[0], Warned)


def test_those_who_are_there_are_waited_for_however_long(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS_UNTIL_NOTE", 0.0)
    monkeypatch.setattr(meeting, "SECONDS_UNTIL_END", 0.05)
    for is_folder, target in ((True, tmp_path / "out"), (False, tmp_path / "report.json")):
        met = Meeting(Share(0, 3), target, is_folder)
        with present(target, is_folder, 1), present(target, is_folder, 2):
            for _ in range(4):
                assert list(met.check([1, 2])) == []
                time.sleep(0.02)
        met.check([1])
        with present(target, is_folder, 1):
            assert list(met.check([1])) == []
    with writing_folder(tmp_path / "out"):
        assert list(Meeting(Share(2, 3), tmp_path / "out", True).wait_for_first()) == []
