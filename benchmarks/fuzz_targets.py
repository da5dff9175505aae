"""The readers that `fuzz.py` tries: what their intact files are, and what reads one."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fuzz_files as files
from benchmarks import fuzz_inputs as made
from mdt_cli.artifacts.checkpoint import read_state
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.training_log import accuracy, learning
from mdt_cli.artifacts.weights import read_header
from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.images.containers import open_container
from mdt_cli.images.decode import read_image, read_image_header
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.services.inspection.inspect import inspect
from mdt_cli.untrusted import read_foreign

OLD = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "v0.1"
PNG = files.picture("PNG", side=8)


@dataclass(frozen=True)
class Target:
    """A reader: its intact files, how they are changed in structure, and what reads one."""

    seeds: Callable[[], list[bytes]]
    structured: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]
    name: str = "input"


def _decoded(path: Path) -> None:
    for raw in (path, path.read_bytes()):
        for call in (lambda raw=raw: read_image(raw, 16), lambda raw=raw: read_image_header(raw)):
            try:
                call()
            except UnreadableError as error:
                message = str(error)
                continue
            message = ""
    if message:
        raise MdtError(message)


def _images(path: Path) -> None:
    found = open_container(path)
    for _, raw in found.read(range(min(len(found), 4))):
        if isinstance(raw, bytes | Path):
            try:
                read_image(raw, 16)
            except UnreadableError:
                continue
    found.close()
    if found.fault is not None:
        raise found.fault


def _run(path: Path) -> None:
    folder = path.parent
    for name in ("log.jsonl", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
        os.link(path, folder / name)
    learning(folder)
    accuracy(folder)


def _manifest(path: Path) -> None:
    folder = path.parent
    for shard in (OLD / "cache").glob("*.safetensors"):
        if not (folder / shard.name).exists():
            (folder / shard.name).symlink_to(shard)
    inspect(folder)
    open_cache(folder)


def _weights(path: Path) -> None:
    inspect(path)
    read_header(path)


def _pictures(kind: str, *modes: str) -> Callable[[], list[bytes]]:
    return lambda: [files.picture(kind, mode) for mode in modes]


def _table(path: Path) -> None:
    for k in range(2):
        (path.parent / f"{k}.png").write_bytes(PNG)
    _images(path.parent)


def _state(path: Path) -> None:
    read_state(path.parent)


def _preset(path: Path) -> None:
    inspect(path)
    load_config([str(path)], [])


def _old(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(OLD / name).read_bytes() for name in names]


def _image_files() -> dict[str, bytes]:
    labels = json.dumps({"labels": [["a/0.png", 0], ["a/1.png", 1]]}).encode()
    return {f"a/{k}.png": files.picture("PNG", side=8) for k in range(2)} | {"dataset.json": labels}


def _samples() -> dict[str, bytes]:
    members = {f"{k}.png": files.picture("PNG", side=8) for k in range(2)}
    return members | {"0.cls": b"1", "1.json": b'{"label": 3}', "d" * 120 + "/2.png": b"x"}


TARGETS: dict[str, Target] = {
    "json (manifest)": Target(
        _old("cache/manifest.json"), made.changed_json, _manifest, "manifest.json"
    ),
    "json (report)": Target(_old("report.json"), made.changed_json, inspect, "report.json"),
    "json (state)": Target(
        _old("runs/dit/checkpoints/step-0000004/state.json"),
        made.changed_json,
        _state,
        "state.json",
    ),
    "toml": Target(
        _old("runs/dit/config.toml", "runs/mdt/config.toml"), made.changed_toml, _preset, "a.toml"
    ),
    "log lines": Target(
        _old("runs/dit/log.jsonl", "runs/lmd-classify/metrics.jsonl"), made.changed_lines, _run
    ),
    "safetensors": Target(
        lambda: [*_old("imported/weights.safetensors")(), files.tensors()],
        made.changed_safetensors,
        _weights,
        "w.safetensors",
    ),
    "safetensors import": Target(
        lambda: [files.tensors()], made.changed_safetensors, read_foreign, "w.safetensors"
    ),
    "torch .pt": Target(
        lambda: [files.checkpoint()], made.changed_zip(made.changed_pickle), read_foreign, "a.pt"
    ),
    "zip": Target(
        lambda: [files.zip_of(_image_files())],
        made.changed_zip(made.changed_png_or_json),
        _images,
        "a.zip",
    ),
    "tar": Target(lambda: [files.tar_of(_samples())], made.changed_tar, _images, "a.tar"),
    "npz": Target(lambda: [files.arrays()], made.changed_zip(made.changed_npy), _images, "a.npz"),
    "parquet": Target(lambda: [files.table()], made.changed_fields, _images, "a.parquet"),
    "csv": Target(
        lambda: [b"file_name,label\n0.png,cat\n1.png,dog\n"],
        made.changed_table,
        _table,
        "metadata.csv",
    ),
    "png": Target(
        _pictures("PNG", "RGB", "RGBA", "P", "I;16", "1", "LA"), made.changed_png, _decoded
    ),
    "jpeg": Target(_pictures("JPEG", "RGB", "L", "CMYK"), made.changed_fields, _decoded),
    "webp": Target(_pictures("WEBP", "RGB", "RGBA"), made.changed_fields, _decoded),
    "gif": Target(_pictures("GIF", "RGB", "L"), made.changed_fields, _decoded),
    "tiff": Target(_pictures("TIFF", "RGB", "F", "CMYK", "I;16"), made.changed_fields, _decoded),
}
