"""A signal between two batches, or two steps of a sampler, of what a run does besides training."""

from pathlib import Path

import pytest

from mdt_cli.services.events import Progress, Warned
from mdt_cli.services.train.start import pretrain
from tests.services.signals import stopped_at
from tests.services.training_kit import digests, make_cache, make_images, small

LOOKS = ("validation.every=2", "preview.every=2", "preview.steps=6", "preview.per_class=1")
SCORES = ("evaluation.every=2", "evaluation.count=8", "evaluation.reference=8")
MORE = ("evaluation.batch_size=4", "evaluation.steps=5", 'evaluation.metrics=["kid"]')


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return make_cache(folder / "cache", make_images(folder / "images", per_class=24))


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stops."""
    run = tmp_path_factory.mktemp("whole") / "run"
    for _ in pretrain(cache, run, small(4, *LOOKS, *SCORES, *MORE)):
        pass
    return run


@pytest.mark.parametrize("at", ["held-out loss", "preview, step 3 of 6", "scoring, step 2 of 5"])
def test_a_stop_within_a_look_is_heard_at_once_and_costs_nothing(
    at: str, cache: Path, whole: Path, tmp_path: Path
) -> None:
    run, loaded = tmp_path / "run", small(4, *LOOKS, *SCORES, *MORE)
    stopped, after = stopped_at(
        pretrain(cache, run, loaded), lambda e: isinstance(e, Progress) and at in e.note
    )
    assert "Saved step 2 of 4" in stopped.saved
    assert not [event for event in after if isinstance(event, Progress)]
    assert any("measures this step again" in e.text for e in after if isinstance(e, Warned))
    for _ in pretrain(cache, run, loaded):
        pass
    assert digests(run, 4) == digests(whole, 4)
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for path in (whole / "samples").iterdir():
        assert (run / "samples" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
