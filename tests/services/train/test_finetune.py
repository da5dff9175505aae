"""The second stage: what it starts from, what it drops or adds, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.weights import read_header, read_tensors
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import Note, Warned
from mdt_cli.services.model import load_trained
from mdt_cli.services.train.start import finetune, starting_config
from tests.autoencoders import save_autoencoder
from tests.services.small_networks import MDTV2, weights_file
from tests.services.training_kit import digests, make_cache, make_images, run, small

UNMASKED = ('masking.views=[{tokens="all"}]', "training.steps=4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache and a masked run on it."""
    folder = tmp_path_factory.mktemp("finetune")
    cache = make_cache(folder / "cache", make_images(folder / "images"))
    run(cache, folder / "run", small(6))
    return cache, folder / "run"


def tune(cache: Path, target: Path, source: Path, *extra: str, ema: str | None = None) -> list:
    loaded = starting_config(source, ema, [], [*UNMASKED, *extra], target)
    return list(finetune(cache, target, source, ema, loaded))


def test_drops_what_only_masked_passes_use(made, tmp_path: Path) -> None:
    cache, source = made
    events = tune(cache, tmp_path / "run", source)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(
        text.startswith("dropped") and "fill.mask_token" in text and "interpolator.block" in text
        for text in notes
    )
    before = read_tensors(source / "checkpoints/step-0000006/weights.safetensors")
    after = read_tensors(tmp_path / "run/checkpoints/step-0000004/weights.safetensors")
    gone = before.keys() - after.keys()
    assert gone == {k for k in before if k.startswith(("fill.", "interpolator."))}
    assert gone
    assert not after.keys() - before.keys()


def test_adds_what_a_masked_stage_needs(made, tmp_path: Path) -> None:
    cache, source = made
    tune(cache, tmp_path / "plain", source)
    views = 'masking.views=[{tokens="all"}, {tokens="kept"}]'
    events = tune(cache, tmp_path / "again", tmp_path / "plain", views)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(text.startswith("added") and "fill.mask_token" in text for text in notes)


@pytest.mark.parametrize("ema", [None, "0.99", "online"])
def test_starts_from_the_weights_asked_for(made, tmp_path: Path, ema: str | None) -> None:
    cache, source = made
    tune(cache, tmp_path / "run", source, "optimizer.lr=1e-30", ema=ema)
    name = {None: "ema-0.9", "0.99": "ema-0.99", "online": "weights"}[ema]
    before = read_tensors(source / f"checkpoints/step-0000006/{name}.safetensors")
    for file in ("weights", "ema-0.9", "ema-0.99"):
        after = read_tensors(tmp_path / f"run/checkpoints/step-0000004/{file}.safetensors")
        for key, tensor in after.items():
            torch.testing.assert_close(tensor, before[key], rtol=1e-6, atol=1e-9)


def test_resumes_without_the_source(made, tmp_path: Path) -> None:
    cache, source = made
    copy = shutil.copytree(source, tmp_path / "source")
    tune(cache, tmp_path / "whole", copy)
    tune(cache, tmp_path / "parts", copy, "training.steps=2")
    shutil.rmtree(copy)
    tune(cache, tmp_path / "parts", copy)
    assert digests(tmp_path / "parts", 4) == digests(tmp_path / "whole", 4)
    assert (
        read_header(tmp_path / "parts/checkpoints/step-0000004/weights.safetensors").stage
        == "finetune"
    )


def test_the_command_goes_on_without_the_source_and_starts_over_only_with_it(
    made, tmp_path: Path
) -> None:
    from mdt_cli.cli.finetune import finetune as command

    cache, source = made
    copy, target = shutil.copytree(source, tmp_path / "source"), tmp_path / "run"
    command(cache, target, copy, assign=[*UNMASKED, "optimizer.lr=5e-4"])
    shutil.rmtree(copy)
    command(cache, target, copy, assign=["training.steps=5"])
    header = read_header(target / "checkpoints/step-0000005/weights.safetensors")
    assert header.config["optimizer"]["lr"] == 5e-4
    with pytest.raises(MdtError, match="no such run or weights"):
        command(cache, target, copy, assign=list(UNMASKED), fresh=2)
    assert digests(target, 5)


def test_a_folder_of_another_stage_is_left_alone(made, tmp_path: Path) -> None:
    """Else the run in it would be trained on, and the weights asked for never be looked at."""
    cache, source = made
    other = shutil.copytree(source, tmp_path / "other")
    before = digests(other, 6)
    with pytest.raises(MdtError, match="holds a pretrain run, not a finetune run"):
        tune(cache, other, source, "training.steps=9")
    loaded = starting_config(source, None, [], ["training.steps=9"])
    with pytest.raises(MdtError, match="holds a pretrain run, not a finetune run"):
        list(finetune(cache, other, source, None, loaded))
    assert digests(other, 6) == before
    assert (other / "config.toml").read_text().startswith("# pretrain")
    tune(cache, tmp_path / "tuned", source)
    with pytest.raises(MdtError, match="holds a finetune run, not a pretrain run"):
        run(cache, tmp_path / "tuned", small(9))


def test_a_run_goes_on_from_what_it_started_from_and_says_so(made, tmp_path: Path) -> None:
    cache, source = made
    copy = shutil.copytree(source, tmp_path / "copy")
    target = tmp_path / "run"
    tune(cache, target, source, "training.steps=1")
    told = [tune(cache, target, path, "training.steps=2") for path in (source, copy)]
    warned = [[event.text for event in events if isinstance(event, Warned)] for events in told]
    assert warned[0] == []
    assert f"initialised from {source.resolve()}; ignoring --from {copy}" in warned[1][0]


def test_how_a_stage_started_is_not_inherited(made, tmp_path: Path) -> None:
    """Three stages: the second starts its label table afresh, the third keeps what it learned."""
    _, source = made
    cache = make_cache(tmp_path / "cache", make_images(tmp_path / "images", classes=3))
    tune(cache, tmp_path / "b", source, "training.new_classes=true", "training.start=online")
    still = ("optimizer.lr=1e-30", "training.steps=1")
    tune(cache, tmp_path / "c", tmp_path / "b", *still)
    before = read_tensors(tmp_path / "b/checkpoints/step-0000004/ema-0.9.safetensors")
    after = read_tensors(tmp_path / "c/checkpoints/step-0000001/weights.safetensors")
    assert after.keys() == before.keys()
    for key, tensor in after.items():
        torch.testing.assert_close(tensor, before[key], rtol=1e-6, atol=1e-9)


def test_a_gone_source_is_refused_at_the_first_start(made, tmp_path: Path) -> None:
    cache, source = made
    loaded = starting_config(source, None, [], list(UNMASKED))
    with pytest.raises(MdtError, match="no such run or weights"):
        list(finetune(cache, tmp_path / "run", tmp_path / "gone", None, loaded))
    assert not (tmp_path / "run").exists()


def test_another_codec_shape_or_class_list_is_refused(made, tmp_path: Path) -> None:
    _, source = made
    smaller = make_cache(tmp_path / "smaller", make_images(tmp_path / "a", size=16), size=8)
    with pytest.raises(MdtError, match="another latent shape"):
        tune(smaller, tmp_path / "r1", source)
    classes = make_cache(tmp_path / "classes", make_images(tmp_path / "b", classes=3))
    with pytest.raises(MdtError, match="trained on other classes than the cache holds"):
        tune(classes, tmp_path / "r2", source)


def test_another_codec_is_refused(made, tmp_path: Path) -> None:
    _, source = made
    images = make_images(tmp_path / "images")
    autoencoder = save_autoencoder(tmp_path / "autoencoder")
    encoded = tmp_path / "encoded"
    for _ in encode_latents(EncodeRequest(images, encoded, codec=autoencoder, size=16, workers=1)):
        pass
    with pytest.raises(MdtError, match="another codec than the cache holds: pixels there"):
        tune(encoded, tmp_path / "run", source)
    assert not (tmp_path / "run").exists()


def test_weights_that_know_their_autoencoder_by_name_go_on_from_a_copy_of_it(
    tmp_path: Path,
) -> None:
    images, encoded = make_images(tmp_path / "images"), tmp_path / "encoded"
    place = save_autoencoder(tmp_path / "autoencoder")
    for _ in encode_latents(EncodeRequest(images, encoded, codec=place, size=16, workers=1)):
        pass
    facts = open_cache(encoded).facts.header()
    codec = {**facts["codec"], "id": "owner/name", "weights_sha256": None}
    shape, names = tuple(facts["latent_shape"]), tuple(facts["class_names"])
    source = weights_file(tmp_path / "w.safetensors", MDTV2, shape, names, codec)
    events = tune(encoded, tmp_path / "run", source, "model.patch_size=2", "training.batch_size=8")
    (warned,) = (event.text for event in events if isinstance(event, Warned))
    assert "owner/name" in warned
    assert "mdt import --codec" in warned


def test_weights_of_another_shape_are_refused_with_a_diff(made, tmp_path: Path) -> None:
    cache, source = made
    with pytest.raises(MdtError, match="does not fit this network") as caught:
        tune(cache, tmp_path / "run", source, "model.hidden_size=32")
    assert "wanted [32]" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_without_checkpoint_and_things_that_are_no_run(made, tmp_path: Path) -> None:
    _, source = made
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.toml").write_bytes((source / "config.toml").read_bytes())
    device = torch.device("cpu")
    with pytest.raises(MdtError, match="has no checkpoint yet"):
        load_trained(empty, None, device)
    with pytest.raises(MdtError, match="no such run or weights"):
        load_trained(tmp_path / "nowhere", None, device)
    with pytest.raises(MdtError, match="neither a run nor a checkpoint folder"):
        load_trained(tmp_path, None, device)
    with pytest.raises(MdtError, match=r"no EMA weights 0\.5"):
        load_trained(source, "0.5", device)


def test_truncated_foreign_and_not_finite_weights(made, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    _, source = made
    device = torch.device("cpu")
    good = source / "checkpoints/step-0000006/ema-0.9.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(MdtError, match="not a complete safetensors file"):
        load_trained(cut, None, device)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    with pytest.raises(MdtError, match="was not written by mdt"):
        load_trained(foreign, None, device)
    nan = tmp_path / "nan.safetensors"
    tensors = read_tensors(good)
    tensors["head.linear.bias"][0] = float("nan")
    save_file(tensors, nan, read_header(good).metadata())
    with pytest.raises(MdtError, match=r"head\.linear\.bias holds NaN"):
        load_trained(nan, None, device)
    newer = tmp_path / "newer.safetensors"
    save_file(read_tensors(good), newer, {**read_header(good).metadata(), "mdt.format": "9"})
    with pytest.raises(MdtError, match="weights format 9; this mdt reads 1"):
        load_trained(newer, None, device)


def test_headers_say_enough_for_later_stages(made) -> None:
    cache, source = made
    header = read_header(source / "checkpoints/step-0000006/ema-0.99.safetensors")
    assert header.ema == "0.99"
    assert header.step == 6
    manifest = json.loads((cache / "manifest.json").read_text())
    assert header.data["class_names"] == ["class0", "class1"]
    assert header.data["latent_shape"] == [3, 16, 16]
    assert manifest
