"""A cache is called current only while its images are those that it was made from."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.artifacts.latent_cache import write as shards
from mdt_cli.artifacts.latent_cache.sources import contents_text
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.files import sha256_of
from mdt_cli.images import workers
from mdt_cli.images.archives import FolderReader
from mdt_cli.services.encode import fill
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import CacheDone, Event, Note, Progress, Warned
from tests.pictures import array, class_files, encoded, write_folder, write_zip
from tests.services.encode.test_convert import fast_dit, lightning


def bmp(seed: int) -> bytes:
    """Always of one size."""
    return encoded(Image.fromarray(array(seed)), "BMP")


FILES = {f"{name.removesuffix('.png')}.bmp": bmp(k) for k, name in enumerate(class_files())}
OTHER = FILES | {"b/002.bmp": bmp(99)}


def run(request: EncodeRequest) -> list[Event]:
    return list(encode_latents(request))


def unchanged(events: list[Event]) -> bool:
    assert isinstance(events[-1], CacheDone)
    return events[-1].unchanged


def compared(events: list[Event]) -> int:
    """How many images were read again."""
    return max((e.done for e in events if isinstance(e, Progress) and e.note), default=0)


def request(images: Path, cache: Path, **options: object) -> EncodeRequest:
    return replace(EncodeRequest(images, cache, size=16, workers=0, shard_size=4), **options)


def write_tar(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    root = path.parent / "for-tar"
    shutil.rmtree(root, ignore_errors=True)
    write_folder(root, files)
    with tarfile.open(path, "w", format=form) as tar:
        for name in files:
            tar.add(root / name, name)
    return path


def write_parquet(path: Path, files: dict[str, bytes], method: str = "none") -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    table = pa.table({"image": rows, "label": ["abc".index(name[0]) for name in files]})
    pq.write_table(table, path, compression=method, use_dictionary=False)
    return path


def write_npz(path: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    seeds = [99 if files[name] == bmp(99) else k for k, name in enumerate(files)]
    rows = np.stack([array(seed) for seed in seeds])
    save = np.savez_compressed if packed else np.savez
    save(path, arr_0=rows, arr_1=np.array(["abc".index(name[0]) for name in files]))
    return path


def write_edm(path: Path, files: dict[str, bytes]) -> Path:
    labels = [[name, "abc".index(name[0])] for name in files]
    return write_zip(path, {"dataset.json": json.dumps({"labels": labels}).encode(), **files})


# How a set is written, its name, and how the same images are written in another way.
LAYOUTS = {
    "folder": (write_folder, "images", write_folder),
    "zip": (write_zip, "i.zip", lambda p, f: write_zip(p, f, zipfile.ZIP_DEFLATED)),
    "edm": (write_edm, "i.zip", write_edm),
    "tar": (write_tar, "i.tar", lambda p, f: write_tar(p, f, tarfile.GNU_FORMAT)),
    "parquet": (write_parquet, "i.parquet", lambda p, f: write_parquet(p, f, "snappy")),
    "npz": (write_npz, "i.npz", lambda p, f: write_npz(p, f, True)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_replaced_by_one_of_as_many_bytes(layout: str, tmp_path: Path) -> None:
    write, name, again = LAYOUTS[layout]
    images = write(tmp_path / name, FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    before = {path.name: path.read_bytes() for path in asked.cache.iterdir()}
    events = run(asked)
    assert unchanged(events)
    assert compared(events) == 0
    # Written again with the same content: read once, then known.
    again(tmp_path / name, FILES)
    events = run(asked)
    assert unchanged(events)
    assert compared(events) == 15
    assert compared(run(asked)) == 0
    assert unchanged(run(replace(asked, verify=True)))
    # One image is another.
    write(tmp_path / name, OTHER)
    for verify in (False, True):
        with pytest.raises(MdtError, match=r"other content now \(1 of 15\)") as caught:
            run(replace(asked, verify=verify))
        assert ("arr_0[7]" if layout == "npz" else "7" if layout == "parquet" else "b/002.bmp") in (
            str(caught.value)
        )
        assert "choose a new folder" in str(caught.value.hint)
    # As the hint says.
    assert not unchanged(run(replace(asked, cache=tmp_path / "new")))
    write(tmp_path / name, FILES)
    assert unchanged(run(asked))
    after = {path.name: path.read_bytes() for path in asked.cache.iterdir()}
    assert {**after, "seen.json": b""} == {**before, "seen.json": b""}


def test_a_replacement_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    file = images / "a/003.bmp"
    facts = file.stat()
    file.write_bytes(bmp(50))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(MdtError, match=r"a/003\.bmp"):
        run(asked)


def test_verify_reads_what_the_quick_check_believes(tmp_path: Path) -> None:
    """Marks that fit a replaced image, as after a clock was set back."""
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    (images / "a/003.bmp").write_bytes(bmp(50))
    facts = (images / "a/003.bmp").stat()
    side = asked.cache / "seen.json"
    seen = json.loads(side.read_text())
    seen["files"]["a/003.bmp"] = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    side.write_text(json.dumps(seen))
    assert unchanged(run(asked))
    with pytest.raises(MdtError, match=r"a/003\.bmp"):
        run(replace(asked, verify=True))


def test_touched_images_are_read_once(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    digest = sha256_of(asked.cache / "manifest.json")
    for name in ("a/001.bmp", "c/004.bmp"):
        os.utime(images / name, ns=(1, 1))
    assert [compared(run(asked)) for _ in range(2)] == [2, 0]
    # A copy in another place has other times, and is the same set.
    copy = shutil.copytree(images, tmp_path / "copy", copy_function=shutil.copyfile)
    assert [compared(run(replace(asked, images=copy))) for _ in range(2)] == [15, 0]
    assert sha256_of(asked.cache / "manifest.json") == digest


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3}', '{"files": {"a": [1]}}', None])
def test_the_quick_check_needs_no_side_file(tmp_path: Path, damage: str | None) -> None:
    asked = request(write_folder(tmp_path / "images", FILES), tmp_path / "cache")
    run(asked)
    side = asked.cache / "seen.json"
    before = side.read_bytes()
    side.unlink() if damage is None else side.write_text(damage)
    events = run(asked)
    assert unchanged(events)
    assert compared(events) == 15
    assert side.read_bytes() == before


def test_times_that_are_too_coarse_are_not_believed(tmp_path: Path) -> None:
    """Where times are whole seconds, a file just written may be written again within the same."""
    import time

    images = write_folder(tmp_path / "images", FILES)
    now = int(time.time()) * 10**9
    os.utime(images / "a/001.bmp", ns=(now, now))
    os.utime(images / "a/002.bmp", ns=(10**18, 10**18))
    asked = request(images, tmp_path / "cache")
    run(asked)
    assert "a/001.bmp" not in json.loads((asked.cache / "seen.json").read_text())["files"]
    assert compared(run(asked)) == 1


def test_added_and_removed_images_are_named(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    (images / "b/004.bmp").rename(images / "b/x\nx.bmp")
    with pytest.raises(MdtError, match=r"15 then, 15 now\): added b/x\nx.bmp; removed b/004.bmp"):
        run(asked)
    with pytest.raises(MdtError, match=r"removed b/004.bmp"):
        run(replace(asked, verify=True))
    (images / "b/x\nx.bmp").rename(images / "c/004.bmp")
    with pytest.raises(MdtError, match=r"15 then, 14 now\): removed b/004.bmp"):
        run(asked)


def test_images_that_moved_to_another_class_are_other_images(tmp_path: Path) -> None:
    edm = write_edm(tmp_path / "i.zip", FILES)
    asked = request(edm, tmp_path / "cache")
    run(asked)
    labels = [[name, 2 - "abc".index(name[0])] for name in FILES]
    write_zip(edm, {"dataset.json": json.dumps({"labels": labels}).encode(), **FILES})
    with pytest.raises(MdtError, match="the same names with other classes"):
        run(asked)


def test_verify_knows_the_images_of_a_limited_cache(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache", limit=6, unconditional=True)
    run(asked)
    events = run(request(images, asked.cache, verify=True))
    assert any(isinstance(e, Note) and "9 more" in e.text for e in events)
    (images / "a/000.bmp").write_bytes(bmp(50))
    with pytest.raises(MdtError, match=r"a/000\.bmp"):
        run(replace(asked, verify=True))


def test_verify_without_the_images_says_so(tmp_path: Path) -> None:
    asked = request(write_folder(tmp_path / "images", FILES), tmp_path / "cache")
    run(asked)
    events = run(replace(asked, verify=True, images=tmp_path / "gone"))
    assert any(isinstance(e, Warned) and "were not compared" in e.text for e in events)


def stopped_after(monkeypatch: pytest.MonkeyPatch, asked: EncodeRequest, number: int) -> None:
    write = shards.write_shard

    def stopping(folder: Path, index: int, content: shards.Content) -> shards.Shard:
        if index == number:
            raise Stopped(15)
        return write(folder, index, content)

    with monkeypatch.context() as patched:
        patched.setattr(fill, "write_shard", stopping)
        with pytest.raises(Stopped):
            run(asked)


def test_a_resumed_cache_does_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of a kept shard is compared; one of a shard to come is simply read."""
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    stopped_after(monkeypatch, asked, 2)
    (images / "a/001.bmp").write_bytes(bmp(50))
    with pytest.raises(MdtError, match=r"a/001\.bmp"):
        run(asked)
    (images / "a/001.bmp").write_bytes(FILES["a/001.bmp"])
    (images / "c/004.bmp").write_bytes(bmp(51))
    assert not unchanged(run(asked))
    whole = replace(asked, cache=tmp_path / "whole")
    run(whole)
    for name in ("manifest.json", "contents.sha256"):
        assert (asked.cache / name).read_bytes() == (whole.cache / name).read_bytes()
    assert compared(run(asked)) == 0


def test_a_damaged_shard_of_a_replaced_image_is_not_made_again(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    (asked.cache / "shard-00000.safetensors").unlink()
    (images / "a/001.bmp").write_bytes(bmp(50))
    with pytest.raises(MdtError, match=r"a/001\.bmp"):
        run(asked)


def test_an_image_replaced_while_it_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether before or after its bytes were read: what was read is on record."""
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    decode = workers.decode

    def replacing(reader: FolderReader, first: int, *rest: object) -> object:
        if first == 0:
            (images / "a/001.bmp").write_bytes(bmp(50))
        found = decode(reader, first, *rest)  # type: ignore[arg-type]
        (images / "a/002.bmp").write_bytes(bmp(51))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(workers, "decode", replacing)
        run(asked)
    with pytest.raises(MdtError, match=r"\(1 of 15\): a/002\.bmp"):
        run(asked)
    (images / "a/002.bmp").write_bytes(FILES["a/002.bmp"])
    assert unchanged(run(asked))


def test_the_file_of_contents_is_restored_or_refused(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    file = asked.cache / "contents.sha256"
    whole = file.read_bytes()
    for damage in (whole[:-1], b"", whole.replace(b"a/001", b"a/009")):
        file.write_bytes(damage)
        with pytest.raises(MdtError, match="missing or damaged"):
            run(replace(asked, verify=True))
        events = run(asked)
        assert any(isinstance(e, Warned) and "read again" in e.text for e in events)
        assert unchanged(events)
        assert file.read_bytes() == whole
    file.unlink()
    (images / "a/001.bmp").write_bytes(bmp(50))
    with pytest.raises(MdtError, match="not those that"):
        run(asked)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_file_of_contents_is_that_of_sha256sum(tmp_path: Path) -> None:
    odd = {"a/back\\slash.bmp": bmp(60), "b/two\nlines\\n.bmp": bmp(61), "b/\udcff.bmp": bmp(62)}
    images = tmp_path / "images"
    for name, data in (FILES | odd).items():
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(data)
    asked = request(images, tmp_path / "cache")
    run(asked)
    words = ["sha256sum", "--check", "--strict", "--quiet", str(asked.cache / "contents.sha256")]
    assert subprocess.run(words, cwd=images, check=False).returncode == 0
    assert unchanged(run(asked))
    assert unchanged(run(replace(asked, verify=True)))


def test_unreadable_images_have_a_content_too(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES | {"a/9.bmp": b"no image"})
    asked = request(images, tmp_path / "cache")
    run(asked)
    assert unchanged(run(asked))
    (images / "a/9.bmp").write_bytes(b"an image")
    with pytest.raises(MdtError, match=r"a/9\.bmp"):
        run(asked)


def test_an_old_cache_goes_on_by_its_rule_and_says_so(tmp_path: Path) -> None:
    """Plans and manifests of version 0.1 have no contents, and a digest of names and sizes."""
    from mdt_cli.artifacts.open_images import open_images

    images = write_folder(tmp_path / "images", FILES)
    asked = request(images, tmp_path / "cache")
    run(asked)
    path = asked.cache / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["contents"], manifest["source"]["contents"]
    manifest["source"]["digest"] = open_images(images).digest
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    for name in ("contents.sha256", "seen.json"):
        (asked.cache / name).unlink()
    digest = sha256_of(path)
    for verify in (False, True):
        events = run(replace(asked, verify=verify))
        assert unchanged(events)
        assert any(isinstance(e, Note) and "recorded no contents" in e.text for e in events)
    assert sha256_of(path) == digest
    assert not (asked.cache / "seen.json").exists()
    (images / "a/001.bmp").write_bytes(bmp(50) + b"longer")
    with pytest.raises(MdtError, match="made from other images"):
        run(asked)


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    asked = request(write_folder(tmp_path / "images", FILES), tmp_path / "cache")
    run(asked)
    path = asked.cache / "manifest.json"
    path.write_text(path.read_text().replace('"contents": "sha256"', '"contents": "blake9"'))
    with pytest.raises(MdtError, match="the rule blake9"):
        run(asked)


def other_latent(root: Path) -> None:
    file = root / "imagenet256_features/5.npy"
    np.save(file, np.load(file) + 1)


def other_label(root: Path) -> None:
    np.save(root / "imagenet256_labels/5.npy", np.array([0]))


def other_row(root: Path) -> None:
    file = sorted(root.glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "change", "named"),
    [
        (fast_dit, other_latent, "5.npy"),
        (fast_dit, other_label, "5.npy"),
        (lightning, other_row, "latents_rank01"),
    ],
)
def test_features_are_compared_as_well(
    tmp_path: Path, make: Callable[[Path], object], change: Callable[[Path], None], named: str
) -> None:
    root = tmp_path / "features"
    make(root)
    asked = EncodeRequest(root, tmp_path / "cache", shard_size=4)
    run(asked)
    events = run(asked)
    assert unchanged(events)
    assert compared(events) == 0
    assert unchanged(run(replace(asked, verify=True)))
    change(root)
    for verify in (False, True):
        with pytest.raises(MdtError, match=named):
            run(replace(asked, verify=verify))


def test_names_are_escaped_so_that_they_come_back() -> None:
    names = ["a\\nb", "a\nb", "a\\\nb", "\\", "a\\\\n", "plain", "\r"]
    text = contents_text(names, ["0" * 64] * len(names))
    assert text.count(b"\n") == len(names)
    assert len(set(text.split(b"\n"))) == len(names) + 1


def test_through_worker_processes(tmp_path: Path) -> None:
    """More images than one task has, read by two workers."""
    files = {f"{'ab'[k % 2]}/{k:03d}.bmp": bmp(k) for k in range(200)}
    images = write_folder(tmp_path / "images", files)
    asked = request(images, tmp_path / "cache", workers=2)
    run(asked)
    events = run(replace(asked, verify=True))
    assert compared(events) == 200
    (images / "b/199.bmp").write_bytes(bmp(500))
    with pytest.raises(MdtError, match=r"b/199\.bmp"):
        run(replace(asked, verify=True))


def test_the_command_says_what_it_compared(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", FILES)
    words = [
        sys.executable,
        "-m",
        "mdt_cli",
        "encode-latents",
        str(images),
        str(tmp_path / "cache"),
    ]
    words += ["--size", "16", "--workers", "0"]
    for said in ("15 images", "nothing to do"):
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert said in done.stderr
    (images / "a/001.bmp").write_bytes(bmp(50))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a/001.bmp" in done.stderr
