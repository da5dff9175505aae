"""A second command on the same target is refused, and what a killed one left is no obstacle."""

from dataclasses import replace

import pytest

from mdt_cli.artifacts import run_folder
from mdt_cli.errors import MdtError
from mdt_cli.files import LOCK
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.evaluate.codec_quality import ReconstructionRequest, reconstruct
from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.events import CacheDone, ExportDone, SamplesDone, TrainingDone
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.sample.sample import SampleRequest, sample
from mdt_cli.services.train.start import pretrain
from tests.services.training_kit import make_cache, make_images, small


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images") / "set", per_class=6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, images):
    return make_cache(tmp_path_factory.mktemp("cache") / "c", images)


def stages(name, images, cache, weights, out):
    """The same command twice."""

    def start():
        match name:
            case "encode":
                return encode_latents(EncodeRequest(images, out, size=8, workers=0))
            case "train":
                return pretrain(cache, out, small(2))
            case "sample":
                return sample(SampleRequest(weights, out, seeds="0-3", batch_size=2, device="cpu"))
            case "evaluate":
                small_set = EvaluateRequest(images, images, out=out / "report.json", device="cpu")
                return evaluate(replace(small_set, extractor="efficientnet-lite0"))
            case "codec":
                request = ReconstructionRequest(images, "pixels", size=16, out=out / "report.json")
                return reconstruct(request)
            case "export":
                return export(ExportRequest(weights, out / "model.safetensors", "safetensors"))

    return start(), start()


@pytest.mark.parametrize("name", ["encode", "train", "sample", "evaluate", "codec", "export"])
def test_the_second_of_two_is_refused_by_name(name, images, cache, weights, tmp_path):
    out = tmp_path / "out"
    first, second = stages(name, images, cache, weights, out)
    begun = next(first)
    with pytest.raises(MdtError, match=r"out.* is being written by another command: process \d+"):
        list(second)
    done = [begun, *first][-1]
    # Nothing of the lock is left, in the folder or in what the command says of it.
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(LOCK)]
    if isinstance(done, ExportDone):
        assert not [file for file in done.files if LOCK in file]
    if isinstance(done, (CacheDone, SamplesDone, TrainingDone)):
        again, _ = stages(name, images, cache, weights, out)
        list(again)


def test_what_a_killed_start_left_is_no_strangers(cache, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in (LOCK, ".tmp-999999999-config.toml", ".DS_Store"):
        (run / name).write_text("half")
    list(pretrain(cache, run, small(1)))
    assert (run / run_folder.CONFIG).is_file()
    assert {path.name for path in run.iterdir() if path.name.startswith(".")} == {".DS_Store"}


def test_a_kill_while_a_run_is_deleted_leaves_a_run(cache, tmp_path, monkeypatch):
    run = tmp_path / "run"
    list(pretrain(cache, run, small(2)))

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            list(pretrain(cache, run, small(1), fresh=2))
    done = list(pretrain(cache, run, small(1), fresh=2))[-1]
    assert isinstance(done, TrainingDone)
    assert done.step == 1
