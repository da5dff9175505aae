"""The whole stage on real files and processes: the same bytes always, resumable, clear errors."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_cli.artifacts.latent_cache import write as shards
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.images.archives import ArchiveReader
from mdt_cli.services.encode import fill
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import CacheDone, Event, Note, Progress, Warned
from tests.autoencoders import save_autoencoder
from tests.pictures import array, class_files, encoded, png, write_folder, write_zip

ROOT = Path(__file__).resolve().parents[3]
FILES = class_files()


def run(request: EncodeRequest) -> list[Event]:
    return list(encode_latents(request))


def done(events: list[Event]) -> CacheDone:
    assert isinstance(events[-1], CacheDone)
    return events[-1]


def digests(folder: Path) -> dict[str, str]:
    """Of all files of a cache but the times of the images, which are no part of it."""
    files = [path for path in sorted(folder.iterdir()) if path.name != "seen.json"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def request(tmp_path: Path, files: dict[str, bytes] = FILES, **options: object) -> EncodeRequest:
    images = write_folder(tmp_path / "images", files)
    asked = EncodeRequest(images, tmp_path / "cache", size=16, workers=0, shard_size=4)
    return replace(asked, **options)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_autoencoder(tmp_path_factory.mktemp("kl"))


def test_pixels_come_back_exactly(tmp_path: Path) -> None:
    result = done(run(request(tmp_path)))
    cache = open_cache(tmp_path / "cache", verify=True)
    rows = cache.read(torch.arange(15))
    for row, name in enumerate(sorted(FILES)):
        seed = 100 * "abc".index(name[0]) + int(name[2:5])
        pixels = torch.from_numpy(array(seed)).permute(2, 0, 1)
        assert torch.equal(rows.mean[row], pixels / 127.5 - 1)
    assert rows.label.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (result.count, result.class_names, result.class_counts) == (
        15,
        ("a", "b", "c"),
        (5,) * 3,
    )
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "contents.sha256",
        "manifest.json",
        "seen.json",
        *(f"shard-0000{k}.safetensors" for k in range(4)),
    ]


def test_progress_counts_every_image(tmp_path: Path) -> None:
    steps = [event for event in run(request(tmp_path)) if isinstance(event, Progress)]
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 15, 15)


def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    broken = FILES | {"b/002.png": b"no image"}
    asked = request(tmp_path, broken)
    run(asked)
    for workers in (1, 3):
        cache = tmp_path / f"cache-{workers}"
        run(replace(asked, cache=cache, workers=workers))
        assert digests(cache) == digests(asked.cache)


def test_same_bytes_for_two_processes(tmp_path: Path, autoencoder: str) -> None:
    asked = request(tmp_path, codec=autoencoder, flip=True)
    run(asked)
    two = tmp_path / "two"
    code = (
        "import sys; from pathlib import Path; from mdt_cli.services.encode.encode import *\n"
        "request = EncodeRequest(Path(sys.argv[1]), Path(sys.argv[2]), codec=sys.argv[3], size=16,"
        " flip=True, workers=0, shard_size=4)\n"
        "for event in encode_latents(request): pass\n"
        "print(type(event).__name__)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(asked.images), str(two), autoencoder],
            cwd=ROOT,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    assert [p.communicate(timeout=120)[0].strip() for p in processes] == [
        "CacheShareDone",
        "CacheDone",
    ]
    assert digests(two) == digests(asked.cache)


def test_autoencoder_cache_holds_moments_and_mirrored_images(
    tmp_path: Path, autoencoder: str
) -> None:
    import diffusers

    run(request(tmp_path, codec=autoencoder, flip=True, batch_size=3))
    cache = open_cache(tmp_path / "cache", verify=True)
    vae = diffusers.AutoencoderKL.from_pretrained(autoencoder)
    x = torch.from_numpy(array(203)).permute(2, 0, 1)[None] / 127.5 - 1
    for turned in (False, True):
        with torch.no_grad():
            posterior = vae.encode(x.flip(-1) if turned else x).latent_dist
        rows = cache.read(torch.tensor([13]), torch.tensor([turned]))
        assert (rows.mean - posterior.mean * 0.18215).abs().max() < 1e-3
        assert rows.std is not None
        assert (rows.std - posterior.std * 0.18215).abs().max() < 1e-3
    assert cache.facts.stochastic
    assert cache.facts.latent_shape == (4, 8, 8)


def test_broken_images_are_listed_and_skipped(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(array(1)), "JPEG")
    files = FILES | {"a/0005.jpg": whole[:-200], "b/9.png": b"text"}
    result = done(run(request(tmp_path, files)))
    assert result.count == 15
    assert [name for name, _ in result.skipped] == ["a/0005.jpg", "b/9.png"]
    assert "truncated" in result.skipped[0][1].lower()
    manifest = json.loads((tmp_path / "cache/manifest.json").read_text())
    assert [entry["name"] for entry in manifest["skipped"]] == ["a/0005.jpg", "b/9.png"]
    assert open_cache(tmp_path / "cache", verify=True).facts.count == 15


def test_strict_fails_on_the_first_broken_image(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match=r"b/9\.png cannot be read: not an image"):
        run(request(tmp_path, FILES | {"b/9.png": b"text"}, strict=True, shard_size=100))
    assert not (tmp_path / "cache").exists()


def test_strict_fails_on_what_was_skipped_before(tmp_path: Path) -> None:
    asked = request(tmp_path, FILES | {"b/9.png": b"text"})
    run(asked)
    with pytest.raises(MdtError, match=r"b/9\.png cannot be read"):
        run(replace(asked, strict=True))


def test_a_shard_without_a_readable_image_is_no_hole(tmp_path: Path) -> None:
    files = {f"a/{k}.png": b"text" if 2 <= k < 6 else png(k) for k in range(8)}
    run(request(tmp_path, files, unconditional=True, shard_size=2))
    cache = open_cache(tmp_path / "cache", verify=True)
    expected = torch.stack([torch.from_numpy(array(k)).permute(2, 0, 1) for k in (0, 1, 6, 7)])
    assert torch.equal(cache.read(torch.arange(4)).mean, expected / 127.5 - 1)


def test_all_broken_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match=r"none of the 2 images could be read; the first: a/1\.png"):
        run(request(tmp_path, {"a/1.png": b"x", "b/2.png": b"y"}))
    assert not (tmp_path / "cache").exists()


def test_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    asked = request(tmp_path)
    assert not done(run(asked)).unchanged
    before = {p: p.stat().st_mtime_ns for p in asked.cache.iterdir()}
    assert done(run(asked)).unchanged
    assert {p: p.stat().st_mtime_ns for p in asked.cache.iterdir()} == before


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    asked = request(tmp_path, FILES | {"a/9.png": b"text"})
    run(asked)
    before = digests(asked.cache)
    shard = asked.cache / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    events = run(asked)
    assert any(isinstance(e, Warned) and "1 shards" in e.text for e in events)
    assert digests(asked.cache) == before


def test_a_repair_after_an_upgrade_is_the_same_cache(tmp_path: Path) -> None:
    """The versions are part of the manifest, whose digest is the cache's name for runs."""
    asked = request(tmp_path, FILES | {"a/9.png": b"text"})
    run(asked)
    manifest = asked.cache / "manifest.json"
    held = json.loads(manifest.read_text())
    held["versions"] |= {"pillow": "9.0", "numpy": "1.0"}
    manifest.write_text(json.dumps(held, indent=2) + "\n")
    before = digests(asked.cache)
    shard = asked.cache / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    run(asked)
    assert digests(asked.cache) == before


def test_a_repair_with_other_bytes_is_another_cache_and_says_so(tmp_path: Path) -> None:
    """As where the encoder rounds otherwise than it did: the manifest has the old sum."""
    asked = request(tmp_path)
    run(asked)
    manifest = asked.cache / "manifest.json"
    held = json.loads(manifest.read_text())
    held["shards"][1]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(held, indent=2) + "\n")
    events = run(asked)
    assert any(isinstance(e, Warned) and "is a different cache" in e.text for e in events)
    assert done(run(replace(asked, verify=True))).unchanged


def test_verify_only_compares(tmp_path: Path) -> None:
    asked = request(tmp_path)
    run(asked)
    assert done(run(replace(asked, verify=True, images=tmp_path / "gone"))).unchanged
    shard = asked.cache / "shard-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(MdtError, match="checksum does not match"):
        run(replace(asked, verify=True))


def test_resume_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within the third shard; the second run reads no image of the first two."""
    images = write_zip(tmp_path / "images.zip", FILES | {"a/1.png": b"broken"})
    asked = EncodeRequest(images, tmp_path / "cache", size=16, workers=0, shard_size=4)
    run(replace(asked, cache=tmp_path / "whole"))
    read, places = ArchiveReader.read, []

    def stopping(reader: ArchiveReader, place: object) -> bytes:
        places.append(place)
        if len(places) == 10 + 8:
            raise Stopped(signal.SIGTERM)
        return read(reader, place)

    monkeypatch.setattr(ArchiveReader, "read", stopping)
    with pytest.raises(Stopped) as caught:
        run(asked)
    assert "2 of 4 shards are finished" in caught.value.saved
    places.clear()
    run(asked)
    assert len(places) == 8 + 8  # 8 headers looked at first, 8 images left
    assert digests(asked.cache) == digests(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
from mdt_cli.services.encode import fill as latent_cache
from mdt_cli.services.encode.encode import *
request = EncodeRequest(Path(sys.argv[1]), Path(sys.argv[2]), size=16, workers=2, shard_size=8)
if __name__ == "__main__":
    for event in encode_latents(request):
        time.sleep(0.05)
"""


def children_of(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in pairs if parent in found} - found
        grown, found = bool(more), found | more
    return found - {pid}


def test_killed_at_any_moment_resumes_and_leaves_no_worker(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", class_files(4, 20))
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, script, images, cache], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while not list(cache.glob("shard-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    assert not (cache / "manifest.json").exists()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (cache / ".tmp-1-shard-00009.safetensors").write_bytes(b"half")
    asked = EncodeRequest(images, cache, size=16, workers=0, shard_size=8)
    run(asked)
    run(replace(asked, cache=tmp_path / "whole"))
    assert digests(cache) == digests(tmp_path / "whole")


def test_a_broken_shard_of_an_unfinished_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path)
    run(replace(asked, cache=tmp_path / "whole"))
    write = shards.write_shard

    def failing(folder: Path, index: int, content: shards.Content) -> shards.Shard:
        if index == 2:
            raise Stopped(signal.SIGINT)
        return write(folder, index, content)

    monkeypatch.setattr(fill, "write_shard", failing)
    with pytest.raises(Stopped):
        run(asked)
    monkeypatch.undo()
    shard = asked.cache / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    run(asked)
    assert digests(asked.cache) == digests(tmp_path / "whole")


@pytest.mark.parametrize("kept", ["shard-00000.safetensors", "shard-00000.json"])
def test_a_signal_that_comes_while_the_first_shard_is_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Its file is there, perhaps its record too, but nobody has counted it yet."""
    straight = request(tmp_path, shard_size=2)
    run(straight)
    late = replace(straight, cache=tmp_path / "late")
    write = shards.write_shard

    def stopped(folder: Path, index: int, content: shards.Content) -> shards.Shard:
        write(folder, index, content)
        if kept.endswith("safetensors"):
            (folder / "shard-00000.json").unlink()
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(fill, "write_shard", stopped)
        with pytest.raises(Stopped):
            run(late)
    assert (late.cache / kept).is_file()
    run(late)
    assert digests(late.cache) == digests(straight.cache)


def test_added_images_are_a_new_cache(tmp_path: Path) -> None:
    asked = request(tmp_path)
    run(asked)
    (asked.images / "a/new.png").write_bytes(png(77))
    with pytest.raises(MdtError, match=r"made from other images \(15 then, 16 now\)") as caught:
        run(asked)
    assert "choose a new folder" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "started with image_size 16, not 8"),
        ({"flip": True}, "started with flip False, not True"),
        ({"shard_size": 5}, "started with shard_rows 4, not 5"),
        ({"limit": 5}, "made from other images"),
        ({"unconditional": True}, "started with labelled True, not False"),
    ],
)
def test_another_request_over_the_same_cache_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    asked = request(tmp_path)
    run(asked)
    with pytest.raises(MdtError, match=message):
        run(replace(asked, **change))


def test_a_cache_of_another_format_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path)
    run(asked)
    manifest = asked.cache / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(MdtError, match="format number 9"):
        run(asked)


def test_one_class_only(tmp_path: Path) -> None:
    asked = request(tmp_path, {"cats/1.png": png(1), "cats/2.png": png(2)})
    with pytest.raises(MdtError, match=r"one class only \(cats\)") as caught:
        run(asked)
    assert "--unconditional" in str(caught.value.hint)
    assert done(run(replace(asked, unconditional=True))).class_names == ()
    assert open_cache(asked.cache).facts.num_classes == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_workers_are_as_many_as_the_cores_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.sched_getaffinity(0)
    # Pictures of 512 px are handed out by five: there is work for eight workers.
    asked = request(tmp_path, {f"{k}.png": png(k) for k in range(40)}, size=512, workers=None)

    def most_workers(folder: str) -> int:
        events = encode_latents(replace(asked, cache=tmp_path / folder))
        return max(len(multiprocessing.active_children()) for _ in events)

    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert most_workers("one-core") == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(len(allowed)))
    assert most_workers("a-process-per-core") == 1
    assert done(run(replace(asked, cache=tmp_path / "one-core"))).count == 40


def test_flip_of_pixels_stores_no_copy(tmp_path: Path) -> None:
    run(request(tmp_path, flip=True))
    cache = open_cache(tmp_path / "cache")
    rows = cache.read(torch.tensor([3, 3]), torch.tensor([False, True]))
    assert cache.facts.flip
    assert torch.equal(rows.mean[1], rows.mean[0].flip(-1))


def test_small_images_are_warned_about_before_the_start(tmp_path: Path) -> None:
    events = run(request(tmp_path, size=64))
    warned = [k for k, event in enumerate(events) if isinstance(event, Warned)]
    assert "16x16 and the like" in events[warned[0]].text
    assert done(events).enlarged == 15
    assert warned[0] < next(k for k, e in enumerate(events) if isinstance(e, Progress))


def test_overflow_says_what_to_do(tmp_path: Path) -> None:
    huge = save_autoencoder(tmp_path / "huge", scaling_factor=1e6)
    asked = request(tmp_path, codec=huge)
    with pytest.raises(
        MdtError, match=r"a latent of a/000\.png is too large for float16"
    ) as caught:
        run(asked)
    assert "--dtype float32" in str(caught.value.hint)
    assert done(run(replace(asked, dtype="float32"))).count == 15


def test_nan_names_the_image(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_autoencoder(tmp_path / "nan")
    path = Path(folder, "diffusion_pytorch_model.safetensors")
    weights = load_file(path)
    weights["encoder.conv_in.weight"][:] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(MdtError, match=r"NaN or infinity of a/000\.png"):
        run(request(tmp_path, codec=folder))
    assert not (tmp_path / "cache").exists()


def test_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage)
    with pytest.raises(MdtError, match="GiB free"):
        run(request(tmp_path))
    assert not (tmp_path / "cache").exists()


def test_unwritable_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MdtError, match="cannot write"):
        run(request(tmp_path, cache=tmp_path / "file/cache"))
    with pytest.raises(MdtError, match="is a file"):
        run(request(tmp_path, cache=tmp_path / "file"))
    with pytest.raises(MdtError, match="is not empty and holds no latent cache"):
        run(request(tmp_path, cache=tmp_path / "images"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "--size 0"),
        ({"workers": -1}, "--workers -1"),
        ({"limit": 0}, "--limit 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"dtype": "int8"}, "no such --dtype: int8"),
        ({"codec": "vae"}, "no such codec"),
    ],
)
def test_bad_options(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(MdtError, match=message):
        run(request(tmp_path, **change))


def test_a_size_that_does_not_fit_the_codec(tmp_path: Path, autoencoder: str) -> None:
    with pytest.raises(MdtError, match="images of 15 pixels do not fit"):
        run(request(tmp_path, codec=autoencoder, size=15))


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    (images / "a/000.png").rename(os.fsdecode(os.fsencode(images) + b"/a/\xff.png"))
    Path(os.fsdecode(os.fsencode(images) + b"/b/\xfe.png")).write_bytes(b"broken")
    events = run(EncodeRequest(images, tmp_path / "cache", size=16, workers=1))
    assert done(events).skipped[0][0] == "b/\\udcfe.png"


def test_the_embedded_digits(tmp_path: Path) -> None:
    digits = ROOT / "mdt_cli/assets/digits.zip"
    result = done(run(EncodeRequest(digits, tmp_path / "cache", size=8, workers=0)))
    assert (result.count, result.class_names) == (1797, tuple("0123456789"))
    assert result.class_counts == (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    from sklearn.datasets import load_digits

    known = load_digits()
    first = np.flatnonzero(known.target == 1)[0]
    rows = open_cache(tmp_path / "cache").read(torch.tensor([178]))
    grey = np.floor(known.images[first] * 255 / 16 + 0.5)
    assert np.array_equal(((rows.mean[0, 0] + 1) * 127.5).round().numpy(), grey)


def test_parquet_through_worker_processes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"bytes": png(k), "path": None} for k in range(9)]
    table = pa.table({"image": [*rows, {"bytes": None, "path": "gone.png"}], "label": [0, 1] * 5})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=4)
    asked = EncodeRequest(tmp_path / "data.parquet", tmp_path / "cache", size=16, workers=2)
    result = done(run(asked))
    assert (result.count, result.skipped) == (
        9,
        (("data.parquet/00000009", "the row holds no image bytes"),),
    )
    expected = torch.stack([torch.from_numpy(array(k)).permute(2, 0, 1) for k in range(9)])
    rows = open_cache(asked.cache).read(torch.arange(9))
    assert torch.equal(rows.mean, expected / 127.5 - 1)
    assert rows.label.tolist() == [0, 1] * 4 + [0]


class Deadly:
    """A reader whose picture kills the process that reads it, as the system does out of memory."""

    def read(self, place: str) -> bytes:
        os._exit(9)

    def close(self) -> None:
        pass


def test_a_worker_that_dies_is_told() -> None:
    from mdt_cli.images.workers import Decoders

    with (
        Decoders(Deadly(), 16, 1) as decoders,
        pytest.raises(MdtError, match="a worker process died"),
    ):
        list(decoders.decode(["1.png"], [range(1)]))


def test_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(MdtError, match="is encrypted"):
        run(EncodeRequest(path, tmp_path / "cache"))


def test_notes_say_what_was_found(tmp_path: Path) -> None:
    notes = [e.text for e in run(request(tmp_path, FILES | {"x.txt": b""})) if isinstance(e, Note)]
    assert notes[0] == "15 images (folder), 3 classes; ignored: 1 .txt"
    assert "MiB" in notes[1]
