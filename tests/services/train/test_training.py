"""The training loop: resume to the bit, rotation, mismatches, signals, processes."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mdt_cli.artifacts.checkpoint import WEIGHTS, checkpoints
from mdt_cli.artifacts.weights import read_header, read_tensors
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.services.build.network import token_counts
from mdt_cli.services.events import PreviewSaved, TrainingDone, Validated, Warned
from mdt_cli.services.train import loop, previews, validation
from mdt_cli.services.train.start import pretrain
from tests.services.training_kit import (
    assignments,
    command,
    digests,
    environment,
    log_of,
    make_cache,
    make_images,
    mdt,
    run,
    small,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    return make_cache(folder / "cache", make_images(folder / "images"))


@pytest.fixture(scope="module")
def twelve(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps in one go."""
    folder = tmp_path_factory.mktemp("twelve") / "run"
    run(cache, folder, small(12))
    return folder


def test_resumed_is_bit_identical(cache: Path, twelve: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(5))
    run(cache, tmp_path / "run", small(12))
    assert digests(tmp_path / "run", 12) == digests(twelve, 12)
    assert len(digests(twelve, 12)) == 4
    losses = [[entry["loss"] for entry in log_of(folder)] for folder in (tmp_path / "run", twelve)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_another_seed_is_another_run(cache: Path, twelve: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(12, "training.seed=1"))
    assert digests(tmp_path / "run", 12) != digests(twelve, 12)


def test_killed_at_any_moment_then_resumed_is_bit_identical(cache: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [str(cache), str(killed), *assignments(40, "checkpoint.every=17")]
    # In processes of their own, so that both sides have the same number of threads.
    straight = mdt("pretrain", str(cache), str(whole), *assignments(40, "checkpoint.every=17"))
    assert straight.returncode == 0, straight.stderr
    process = subprocess.Popen(command("pretrain", *words), env=environment())
    newest = killed / "checkpoints" / "step-0000017"
    deadline = time.monotonic() + 120
    while not newest.is_dir():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "checkpoints" / "step-0000040").is_dir()
    resumed = mdt("pretrain", *words)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stderr
    assert digests(killed, 40) == digests(whole, 40)
    assert [e["step"] for e in log_of(killed)] == list(range(1, 41))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_tells(cache: Path, tmp_path: Path, signum: int, code: int) -> None:
    folder = tmp_path / "run"
    words = [str(cache), str(folder), *assignments(100_000)]
    process = subprocess.Popen(
        command("pretrain", *words), env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "log.jsonl").is_file() or len(log_of(folder)) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    _, text = process.communicate(timeout=60)
    assert process.returncode == code
    assert "rerun the same command to resume" in text
    saved = checkpoints(folder)
    assert len(saved) == 1
    assert json.loads((saved[0] / "state.json").read_text())["step"] == log_of(folder)[-1]["step"]


def test_two_processes_see_the_same_numbers_as_one(cache: Path, tmp_path: Path) -> None:
    # Both in processes of their own: the number of threads, which rounds too, is the same.
    for name, processes in (("one", 1), ("two", 2)):
        words = ["pretrain", str(cache), str(tmp_path / name), *assignments(20)]
        done = mdt(*words, processes=processes)
        assert done.returncode == 0, done.stderr
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        # The mean over micro-batches is summed in another order.
        assert two["mask_ratio"] == pytest.approx(one["mask_ratio"], rel=1e-6)


def test_micro_batches_that_do_not_share_out(cache: Path, tmp_path: Path) -> None:
    words = assignments(2, "training.micro_batch_size=0")
    done = mdt("pretrain", str(cache), str(tmp_path / "run"), *words, processes=2)
    assert done.returncode != 0
    assert "cannot be divided evenly among 2 processes" in done.stderr
    assert "use --set training.micro_batch_size=4, or another number" in done.stderr
    assert not (tmp_path / "run").exists()
    run(cache, tmp_path / "run", small(2, "training.micro_batch_size=0"))
    done = mdt("pretrain", str(cache), str(tmp_path / "run"), *words, processes=2)
    assert done.returncode != 0
    assert "resume with a number of processes that divides 1" in done.stderr


def test_falls_back_to_the_checkpoint_before_a_damaged_one(
    cache: Path, twelve: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(8, "checkpoint.every=4"))
    damaged = folder / "checkpoints" / "step-0000008" / "ema-0.9.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    events = run(cache, folder, small(12, "checkpoint.every=4"))
    warnings = [str(event) for event in events if isinstance(event, Warned)]
    assert any("ema-0.9.safetensors is missing or damaged" in text for text in warnings)
    assert same_tensors(folder, twelve, 12)
    # Steps 5 to 8 were logged before the damage and again after it: each stands there once.
    assert [entry["step"] for entry in log_of(folder)] == list(range(1, 13))


def test_a_log_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    from mdt_cli.artifacts.run_folder import rewind

    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    rewind(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_rotation_keeps_the_last_and_the_multiples(cache: Path, tmp_path: Path) -> None:
    keep = ("checkpoint.every=2", "checkpoint.keep_last=2", "checkpoint.keep_every=4")
    run(cache, tmp_path / "run", small(12, *keep))
    names = [folder.name for folder in checkpoints(tmp_path / "run")]
    assert names == [f"step-{step:07d}" for step in (12, 10, 8, 4)]
    assert not list((tmp_path / "run" / "checkpoints").glob(".tmp*"))


def test_training_on_is_refused_when_keys_differ(cache: Path, twelve: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(twelve, tmp_path / "run")
    with pytest.raises(MdtError, match="another configuration") as caught:
        run(cache, folder, small(12, "optimizer.eps=1e-6"))
    assert "optimizer.eps: 1e-08 in the run, 1e-06 now  (set by --set optimizer.eps=1e-6)" in str(
        caught.value
    )


def test_another_cache_is_refused(cache: Path, twelve: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(twelve, tmp_path / "run")
    other = make_cache(tmp_path / "other", make_images(tmp_path / "images", classes=3))
    with pytest.raises(MdtError, match="trained on another cache"):
        run(other, folder, small(14))


def test_fresh_asks_twice(cache: Path, twelve: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(twelve, tmp_path / "run")
    with pytest.raises(
        MdtError, match="already holds a run; its newest checkpoint is step-0000012"
    ):
        run(cache, folder, small(3), fresh=1)
    assert digests(folder, 12)
    run(cache, folder, small(3), fresh=2)
    assert [p.name for p in checkpoints(folder)] == ["step-0000003"]


def test_a_folder_with_other_things_is_left_alone(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(MdtError, match="is not empty and not a run"):
        run(cache, tmp_path / "run", small(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(MdtError, match="is a file"):
        run(cache, tmp_path / "file", small(1))


def test_watching_does_not_change_the_run(cache: Path, twelve: Path, tmp_path: Path) -> None:
    watch = ("validation.every=3", "preview.every=6", "preview.steps=2", "preview.per_class=1")
    events = run(cache, tmp_path / "run", small(12, *watch))
    assert same_tensors(tmp_path / "run", twelve, 12)
    validated = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in validated] == [3, 6, 9, 12]
    wanted = {f"{b}/{w}" for b in ("full", "masked") for w in ("online", "0.9", "0.99")}
    assert set(validated[-1].losses) == wanted
    previews = [event.path for event in events if isinstance(event, PreviewSaved)]
    assert [path.name for path in previews] == ["step-0000006.png", "step-0000012.png"]
    assert all(path.is_file() for path in previews)


def same_tensors(one: Path, two: Path, step: int) -> bool:
    """Compares tensors, not files: headers hold configurations, which may differ."""
    for name in digests(one, step):
        ours, theirs = (
            read_tensors(folder / "checkpoints" / f"step-{step:07d}" / name)
            for folder in (one, two)
        )
        if not all(torch.equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys()):
            return False
    return True


def test_class_names_that_are_not_utf8_are_trained_on(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    (images / "class0").rename(images / os.fsdecode(b"caf\xe9"))
    run(make_cache(tmp_path / "cache", images), tmp_path / "run", small(1, "preview.every=1"))
    header = read_header(tmp_path / "run" / "checkpoints" / "step-0000001" / WEIGHTS)
    assert header.data["class_names"] == ["caf\\xe9", "class1"]


def test_held_out_rows_are_never_trained_on() -> None:
    from mdt_cli.services.train.batches import split_rows

    split = split_rows(1000, 30, seed=4)
    assert len(split.held_out) == 30
    assert len(split.train) == 970
    assert not set(split.train.tolist()) & set(split.held_out.tolist())
    assert len(split_rows(1000, 500, 4).held_out) == 50
    assert len(split_rows(10, 256, 4).held_out) == 0


def test_loss_falls_on_what_can_be_learned(cache: Path, tmp_path: Path) -> None:
    events = run(cache, tmp_path / "run", small(120, "log.every=20", "optimizer.lr=3e-3"))
    losses = [entry["loss"] for entry in log_of(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]
    assert isinstance(events[-1], TrainingDone)
    assert events[-1].images == 960


def test_a_run_that_diverges_stops_with_a_sentence(cache: Path, tmp_path: Path) -> None:
    loaded = small(400, "optimizer.lr=1e30", "training.clip_norm=0", "training.max_bad_steps=3")
    with pytest.raises(MdtError, match="not finite in 3 steps in a row"):
        run(cache, tmp_path / "run", loaded)


def test_precision_is_refused_where_it_is_slower(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MdtError, match="precision=fp16 would be 8-100x slower"):
        list(_pretrain(cache, tmp_path / "run", small(1, "training.precision=fp16")))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(MdtError, match="precision=bf16 would be 8-100x slower"):
        list(_pretrain(cache, tmp_path / "run", small(1, "training.precision=bf16")))
    assert not (tmp_path / "run").exists()


def test_tf32_is_float32_where_there_is_none(cache: Path, twelve: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(12, "training.precision=tf32"))
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    weights = [
        read_tensors(folder / "checkpoints" / "step-0000012" / WEIGHTS)
        for folder in (tmp_path / "run", twelve)
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_step_too_large_for_the_memory_says_which_would_fit(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", raise_full)
    with pytest.raises(MdtError, match="out of memory with micro-batches of 4 images") as told:
        run(cache, tmp_path / "run", small(2))
    assert "--set training.micro_batch_size=2" in str(told.value.hint)
    with pytest.raises(MdtError, match="out of memory with micro-batches of 1 images") as told:
        run(cache, tmp_path / "one", small(2, "training.micro_batch_size=1"))
    assert "smaller model" in str(told.value.hint)


def test_a_run_that_has_begun_is_not_told_to_start_over(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cache, tmp_path / "run", small(1))
    monkeypatch.setattr(loop, "train_step", raise_full)
    with pytest.raises(MdtError, match="fixed for the lifetime of a run") as told:
        run(cache, tmp_path / "run", small(2))
    assert "rerun the command to resume" in str(told.value.hint)
    assert "--fresh" not in str(told.value.hint)


@pytest.mark.parametrize("name", ["codec_from_facts", "generate_steps"])
def test_previews_that_do_not_fit_are_left_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(previews, name, raise_full)
    events = run(cache, tmp_path / "run", small(4, "preview.every=1"))
    warned = [event.text for event in events if isinstance(event, Warned)]
    assert warned == ["previews disabled: not enough memory while training"]
    assert isinstance(events[-1], TrainingDone)


def test_held_out_losses_that_do_not_fit_name_the_keys(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "view_loss", raise_full)
    with pytest.raises(MdtError, match="out of memory in validation or online metrics") as told:
        run(cache, tmp_path / "run", small(4, "validation.every=2"))
    assert "halve validation.batch_size" in str(told.value.hint)


def raise_full(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def _pretrain(cache: Path, folder: Path, loaded):
    from mdt_cli.services.train.start import pretrain

    return pretrain(cache, folder, loaded, device="cpu")


def test_more_token_counts_than_the_compiler_takes_are_told(cache: Path, tmp_path: Path) -> None:
    many = ("model.patch_size=1", "training.compile=true", "masking.views=[{tokens='kept'}]")
    events = pretrain(cache, tmp_path / "run", small(1, *many))
    told = next(event.text for event in events if isinstance(event, Warned))
    assert "different numbers of tokens" in told
    assert "--set masking.selector.bucket=16" in told
    run(cache, tmp_path / "begun", small(1, *many, "training.compile=false"))
    events = pretrain(cache, tmp_path / "begun", small(2, *many))
    again = next(event.text for event in events if isinstance(event, Warned))
    assert "different numbers of tokens" in again
    assert "bucket" not in again  # a run that has begun keeps its masks
    rounded = load_config(["mdtv2"], ["masking.selector.bucket=32"]).config
    assert token_counts(rounded, (16, 16)) == {128, 160, 192, 256}


@pytest.mark.slow
def test_compiled_blocks_train_as_plain_ones(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Five token counts, more graphs than the compiler takes by itself; fusing may round."""
    losses, names = [], []
    torch._dynamo.utils.counters.clear()
    keys = ("model.patch_size=2", "masking.selector.bucket=4")
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        run(cache, folder, small(12, f"training.compile={compiled}", *keys))
        losses.append([line["loss"] for line in log_of(folder)])
        files = folder.glob("checkpoints/*/*.safetensors")
        names.append({file.name: set(read_tensors(file)) for file in files})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 8
    assert "recompile_limit" not in caplog.text
    assert names[0] == names[1]


def test_unwritable_target(cache: Path) -> None:
    with pytest.raises(MdtError, match="cannot write"):
        run(cache, Path("/proc/mdt-run"), small(1))


def test_a_damaged_cache_is_found_before_the_first_step(cache: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(cache, tmp_path / "cache")
    shard = next(damaged.glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(MdtError, match="shard-00000"):
        run(damaged, tmp_path / "run", small(1))
    assert not (tmp_path / "run").exists()


def test_unconditional_and_single_view(cache: Path, tmp_path: Path) -> None:
    loaded = small(
        3, "data.conditional=false", 'masking.views=[{tokens="kept", terms=[{region="kept"}]}]'
    )
    run(cache, tmp_path / "run", loaded)
    names = read_tensors(tmp_path / "run/checkpoints/step-0000003/weights.safetensors")
    assert not any(name.startswith("label.") for name in names)
    assert set(log_of(tmp_path / "run")[0]) >= {"loss/masked"}
    assert "loss/full" not in log_of(tmp_path / "run")[0]


def test_every_recipe_learns_and_resumes(cache: Path, tmp_path: Path) -> None:
    for recipe in ("dit", "mdt", "mdtv2"):
        steps = ("training.steps=20", "training.batch_size=8", "optimizer.lr=2e-3", "log.every=5")
        quiet = ("validation.every=0", "preview.every=0", "ema.decays=[0.9]")
        small_run = [*steps, *quiet, "model.patch_size=4"]
        loaded = load_config([recipe, "size/tiny"], small_run)
        run(cache, tmp_path / recipe, loaded)
        losses = [entry["loss"] for entry in log_of(tmp_path / recipe)]
        assert losses[-1] < losses[0]
        half = load_config([recipe, "size/tiny"], [*small_run, "training.steps=9"])
        run(cache, tmp_path / f"{recipe}-2", half)
        run(cache, tmp_path / f"{recipe}-2", loaded)
        assert digests(tmp_path / f"{recipe}-2", 20) == digests(tmp_path / recipe, 20)
