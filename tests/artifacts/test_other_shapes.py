"""Valid JSON of another shape, in every file that a stage reads: a sentence, never a traceback."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from mdt_cli.artifacts.checkpoint import read_state
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.open_images import open_images
from mdt_cli.artifacts.weights import read_header
from mdt_cli.errors import MdtError
from mdt_cli.services.export.model_card import read_report
from mdt_cli.services.inspection.inspect import inspect

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1"
OTHER = (
    None,
    [],
    {},
    "",
    "x",
    -1,
    10**19,
    1e999,
    True,
    [[]],
    {"a": None},
    "../../x",
    "\ud800\x1b[31m",
)
GONE = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document, of lists the first entry alone."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(value: Any, path: tuple[Any, ...], other: object) -> Any:
    if not path:
        return None if other is GONE else other
    result = copy.deepcopy(value)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if other is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = other
    return result


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """The document with each place removed, and with a few other values in each."""
    rng = random.Random(0)
    for path in places(value):
        for other in (GONE, *rng.sample(OTHER, 4)):
            yield f"{path}: {other!r}", changed(value, path, other)


def tried(call: Callable[[], object]) -> bool:
    """Whether it was refused with a sentence; any other exception is a failure of the test."""
    try:
        call()
    except MdtError as error:
        return len(error.message) < 1000 or pytest.fail(error.message[:1000])
    return False


@pytest.mark.parametrize(
    ("folder", "name", "readers"),
    [
        ("cache", "manifest.json", [inspect, open_cache, open_images]),
        ("latents", "manifest.json", [inspect, open_cache]),
        ("cache-begun", "plan.json", [inspect]),
        ("samples", "samples.json", [inspect, open_images]),
        ("runs/dit/checkpoints/step-0000004", "state.json", [inspect, read_state]),
        ("imported", "import.json", [inspect]),
        ("exported", "model_index.json", [inspect]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_other_shapes(
    tmp_path: Path, folder: str, name: str, readers: list[Callable[[Path], object]]
) -> None:
    made = tmp_path / "made"
    shutil.copytree(OLD / folder, made)
    document = json.loads((made / name).read_text("utf-8"))
    refused = 0
    for what, variant in variants(document):
        (made / name).write_text(json.dumps(variant))
        for reader in readers:
            try:
                refused += tried(lambda reader=reader: reader(made))  # type: ignore[misc]
            except Exception as error:
                raise AssertionError(f"{reader.__name__}: {what}") from error
    assert refused or name in ("samples.json", "model_index.json", "import.json")


def test_reports_of_other_shapes(tmp_path: Path) -> None:
    document = json.loads((OLD / "report.json").read_text("utf-8"))
    file = tmp_path / "report.json"
    for what, variant in variants({key: document[key] for key in list(document)[:6]}):
        file.write_text(json.dumps(variant))
        for reader in (inspect, read_report):
            try:
                tried(lambda reader=reader: reader(file))  # type: ignore[misc]
            except Exception as error:
                raise AssertionError(f"{reader.__name__}: {what}") from error


def test_headers_of_weights_of_other_shapes(tmp_path: Path) -> None:
    old, file = OLD / "imported/weights.safetensors", tmp_path / "weights.safetensors"
    with safe_open(old, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())[:2]}
    for key in ("mdt.config", "mdt.data"):
        for what, variant in variants(json.loads(metadata[key])):
            save_file(tensors, file, {**metadata, key: json.dumps(variant)})
            for reader in (inspect, read_header):
                try:
                    tried(lambda reader=reader: reader(file))  # type: ignore[misc]
                except Exception as error:
                    raise AssertionError(f"{reader.__name__}: {key} {what}") from error
    for key in [name for name in metadata if name.startswith("mdt.")]:
        for text in ("", "{}", "[", "-1", "9" * 30, "\u0663", "[" * 100_000):
            save_file(tensors, file, {**metadata, key: text})
            tried(lambda: inspect(file))
            tried(lambda: read_header(file))
        save_file(tensors, file, {name: text for name, text in metadata.items() if name != key})
        assert tried(lambda: read_header(file))


def test_what_a_header_lacks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({}, file, {"mdt.format": "1", "mdt.config": "{}"})
    with pytest.raises(MdtError, match=r"header of .*w.safetensors is damaged: it has no mdt.data"):
        read_header(file)
    full = {"mdt.format": "1", "mdt.data": "{}", "mdt.step": "1", "mdt.ema": "", "mdt.stage": ""}
    save_file({}, file, {**full, "mdt.config": "[]"})
    with pytest.raises(MdtError, match="it: input should be a valid dictionary"):
        read_header(file)
    save_file({}, file, {**full, "mdt.config": "{}"})
    with pytest.raises(MdtError, match="codec: field required"):
        read_header(file)


def test_header_of_a_shard_of_another_shape(tmp_path: Path) -> None:
    made = tmp_path / "cache"
    shutil.copytree(OLD / "cache", made)
    shard = made / "shard-00000.safetensors"
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for what, variant in variants(header):
        # Of the same length, so that the size in the manifest fits.
        text = json.dumps(variant, separators=(",", ":")).encode()[:length].ljust(length)
        shard.write_bytes(data[:8] + text + data[8 + length :])
        try:
            tried(lambda: open_cache(made))
        except Exception as error:
            raise AssertionError(what) from error
    shard.write_bytes(b"\xff" * 8 + data[8:])
    with pytest.raises(MdtError, match=r"shard-00000\.safetensors"):
        open_cache(made)
    assert load_file(OLD / "cache/shard-00000.safetensors")
