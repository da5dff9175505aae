"""A cache that is exchanged under a running training stops it with a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mdt_cli.errors import MdtError
from mdt_cli.services.events import StepDone
from mdt_cli.services.train.start import pretrain
from tests.services.training_kit import make_cache, make_images, run, small


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two caches of equal sizes and shapes and other pixels."""
    folder = tmp_path_factory.mktemp("caches")
    one = make_cache(folder / "one", make_images(folder / "images"))
    images = shutil.copytree(folder / "images", folder / "others")
    files = sorted(images.rglob("*.png"))
    for file, other in zip(files, reversed(files), strict=True):
        if file < other:
            data = file.read_bytes()
            file.write_bytes(other.read_bytes())
            other.write_bytes(data)
    return one, make_cache(folder / "two", images)


def other_shard(cache: Path, other: Path) -> None:
    shutil.copy(other / "shard-00000.safetensors", cache)


def other_cache(cache: Path, other: Path) -> None:
    shutil.rmtree(cache)
    shutil.copytree(other, cache)


def cut(cache: Path, other: Path) -> None:
    shard = cache / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:2000])


def no_shard(cache: Path, other: Path) -> None:
    (cache / "shard-00000.safetensors").unlink()


def other_manifest(cache: Path, other: Path) -> None:
    shutil.copy(other / "manifest.json", cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shard, "changed while it was read: .*shard-00000"),
        (other_cache, "changed while it was read: .*(manifest|shard-00000)"),
        (cut, "shorter|changed while it was read"),
        (no_shard, "No such file"),
        (other_manifest, "changed while it was read: .*manifest"),
    ],
)
def test_a_change_under_training_stops_it(
    caches: tuple[Path, Path],
    tmp_path: Path,
    change: Callable[[Path, Path], None],
    message: str,
) -> None:
    cache, kept = shutil.copytree(caches[0], tmp_path / "cache"), tmp_path / "kept"
    shutil.copytree(cache, kept)
    sizes = {f.name: f.stat().st_size for f in caches[0].glob("shard-*")}
    assert sizes == {f.name: f.stat().st_size for f in caches[1].glob("shard-*")}
    events = pretrain(cache, tmp_path / "run", small(6, "checkpoint.every=1"))
    for event in events:
        if isinstance(event, StepDone) and event.step == 3:
            break
    change(cache, caches[1])
    with pytest.raises(MdtError, match=message):
        list(events)
    # As the message says: put back, the run goes on to what an undisturbed one arrives at.
    shutil.rmtree(cache)
    kept.rename(cache)
    run(cache, tmp_path / "run", small(6))
    run(cache, tmp_path / "whole", small(6))
    last = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])["loss"]
        for name in ("run", "whole")
    ]
    assert np.isfinite(last).all()
    assert last[0] == last[1]
