"""The cache as training reads it: right rows, constant memory, and every damage noticed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mdt_cli.artifacts.latent_cache import read as latents
from mdt_cli.artifacts.latent_cache.read import LatentCache, open_cache
from mdt_cli.artifacts.latent_cache.write import Content, write_manifest, write_shard
from mdt_cli.errors import MdtError

ROWS, SHARD = 50, 16
SHAPE = (4, 3, 5)


def values(seed: int) -> torch.Tensor:
    return torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(seed))


def write_cache(folder: Path, dtype: torch.dtype = torch.float16, pixels: bool = False) -> Path:
    label = torch.arange(ROWS) % 3
    if pixels:
        generator = torch.Generator().manual_seed(0)
        tensors = {"pixels": torch.randint(0, 256, (ROWS, *SHAPE), generator=generator).byte()}
    else:
        parts = ("mean", "std", "mean_flip", "std_flip")
        tensors = {name: values(k).abs().to(dtype) for k, name in enumerate(parts)}
    folder.mkdir()
    plan = {
        "format": "mdt-latents",
        "version": 1,
        "codec": {"name": "pixels" if pixels else "autoencoder"},
        "image_size": 8,
        "latent_shape": list(SHAPE),
        "stochastic": not pixels,
        "flip": True,
        "dtype": "uint8" if pixels else str(dtype).removeprefix("torch."),
        "source": {"items": ROWS},
        "shard_rows": SHARD,
    }
    shards = [
        write_shard(
            folder,
            k,
            Content(
                {name: tensor[start : start + SHARD] for name, tensor in tensors.items()},
                label[start : start + SHARD],
                {},
                0,
                [],
            ),
        )
        for k, start in enumerate(range(0, ROWS, SHARD))
    ]
    write_manifest(folder, plan, shards, ("a", "b", "c"), {})
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_any_order_and_flip(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = open_cache(write_cache(tmp_path / "c", dtype), verify=True)
    rows = torch.tensor([49, 0, 15, 16, 16, 31, 7])
    flip = torch.tensor([1, 0, 1, 0, 1, 1, 0]).bool()
    out = cache.read(rows, flip)
    for slot, (row, turned) in enumerate(zip(rows.tolist(), flip.tolist(), strict=True)):
        mean, std = values(2 if turned else 0), values(3 if turned else 1)
        assert torch.equal(out.mean[slot], mean[row].abs().to(dtype).float())
        assert out.std is not None
        assert torch.equal(out.std[slot], std[row].abs().to(dtype).float())
    assert out.label.tolist() == (rows % 3).tolist()
    assert out.mean.dtype == torch.float32
    assert torch.equal(cache.read(rows).mean[0], values(0)[49].abs().to(dtype).float())


def test_pixels_are_scaled_and_mirrored(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "c", pixels=True))
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (ROWS, *SHAPE), generator=generator).float()
    out = cache.read(torch.tensor([20, 3]), torch.tensor([True, False]))
    assert out.std is None
    assert torch.equal(out.mean[0], stored[20].flip(-1) / 127.5 - 1)
    assert torch.equal(out.mean[1], stored[3] / 127.5 - 1)


def test_statistics_are_of_drawn_latents(tmp_path: Path) -> None:
    facts = open_cache(write_cache(tmp_path / "c", torch.float32)).facts
    mean, std = values(0).abs().double(), values(1).abs().double()
    expected = mean.mean(dim=(0, 2, 3))
    spread = ((mean**2 + std**2).mean(dim=(0, 2, 3)) - expected**2).sqrt()
    assert np.allclose(facts.latent_mean, expected, atol=1e-12)
    assert np.allclose(facts.latent_std, spread, atol=1e-12)


def test_statistics_of_pixels_are_in_their_range(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "c", pixels=True))
    x = cache.read(torch.arange(ROWS)).mean.double()
    assert np.allclose(cache.facts.latent_mean, x.mean(dim=(0, 2, 3)), atol=1e-6)
    expected = x.std(dim=(0, 2, 3), unbiased=False)
    assert np.allclose(cache.facts.latent_std, expected, atol=1e-6)


def test_callers_bugs(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"outside 0\.\.49"):
        cache.read(torch.tensor([50]))
    manifest = tmp_path / "c/manifest.json"
    manifest.write_text(manifest.read_text().replace('"flip": true', '"flip": false'))
    with pytest.raises(ValueError, match="without --flip"):
        open_cache(tmp_path / "c").read(torch.tensor([0]), torch.tensor([True]))


def test_few_shards_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "MAX_OPEN", 2)
    cache = open_cache(write_cache(tmp_path / "c"))
    rows = torch.arange(ROWS).flip(0)
    for _ in range(2):
        assert torch.equal(cache.read(rows).mean, values(0).flip(0).abs().half().float())
    assert len(cache._files) == 2


MEMORY = """
import sys, torch
from pathlib import Path
from mdt_cli.artifacts.latent_cache.read import open_cache
cache = open_cache(Path(sys.argv[1]))
def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
generator = torch.Generator().manual_seed(0)
seen = []
for step in range(300):
    cache.read(torch.randint(len(cache), (256,), generator=generator))
    seen.append(resident())
print(max(seen) - seen[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_constant(tmp_path: Path) -> None:
    """300 random batches of a 256 MiB cache: resident memory grows by less than a quarter of it."""
    shape, rows, per = (4, 32, 32), 32768, 4096
    folder = tmp_path / "c"
    folder.mkdir()
    plan = {
        "format": "mdt-latents",
        "version": 1,
        "codec": {"name": "autoencoder"},
        "image_size": 256,
        "latent_shape": list(shape),
        "stochastic": False,
        "flip": False,
        "dtype": "float16",
        "source": {"items": rows},
        "shard_rows": per,
    }
    content = Content({"mean": torch.zeros(per, *shape).half()}, torch.zeros(per).long(), {}, 0, [])
    shards = [write_shard(folder, k, content) for k in range(rows // per)]
    write_manifest(folder, plan, shards, (), {})
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 64


def test_several_threads_may_read(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "c"))
    expected = cache.read(torch.arange(ROWS)).mean
    with ThreadPoolExecutor(4) as threads:
        read = threads.map(lambda k: cache.read((torch.arange(ROWS) + k) % ROWS).mean, range(200))
        for k, rows in enumerate(read):
            assert torch.equal(rows, expected.roll(-k, 0))


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("shard-00002.safetensors", flip_byte, "shard-00002.safetensors: its checksum"),
        ("shard-00001.safetensors", cut, "bytes, not"),
        ("shard-00000.safetensors", Path.unlink, "No such file"),
        ("manifest.json", cut, "is damaged"),
    ],
)
def test_damage_is_noticed(
    tmp_path: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_cache(tmp_path / "c")
    damage(folder / file)
    with pytest.raises(MdtError, match=message):
        open_cache(folder, verify=True)


def edited(folder: Path, **changes: object) -> LatentCache:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return open_cache(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format number 2; this version of mdt reads 1"),
        ({"format": "else"}, "not the manifest of a latent cache"),
        ({"latent_shape": [4, 4, 5]}, "mean should be F16"),
        ({"dtype": "float32"}, "mean should be F32"),
        ({"count": 51}, "another count"),
        ({"shards": [{}]}, "is damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(MdtError, match=message):
        edited(write_cache(tmp_path / "c"), **changes)


def test_what_is_no_cache_says_so(tmp_path: Path) -> None:
    with pytest.raises(MdtError, match="no such latent cache"):
        open_cache(tmp_path / "nowhere")
    with pytest.raises(MdtError, match=r"has no manifest\.json"):
        open_cache(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(MdtError, match="is not finished"):
        open_cache(tmp_path)


def test_header_is_json(tmp_path: Path) -> None:
    facts = open_cache(write_cache(tmp_path / "c")).facts
    header = json.loads(json.dumps(facts.header()))
    assert (header["num_classes"], header["class_names"]) == (3, ["a", "b", "c"])
    assert (header["latent_shape"], header["count"]) == (list(SHAPE), ROWS)
    assert facts.class_counts == (17, 17, 16)


def other_bytes(path: Path) -> None:
    """Bytes of the same number and shape, renamed over the file, with its time."""
    facts = path.stat()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    new = path.with_name("new")
    new.write_bytes(data)
    os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    new.replace(path)


def other_manifest(path: Path) -> None:
    manifest = path.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace('"a"', '"z"'))


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (flip_byte, "changed while it was read: .*shard-00001"),
        (other_bytes, "changed while it was read: .*shard-00001"),
        (cut, "became shorter|changed while it was read"),
        (Path.unlink, "No such file"),
        (other_manifest, "changed while it was read: .*manifest.json"),
    ],
)
@pytest.mark.parametrize("held_open", [True, False])
def test_what_is_replaced_while_it_is_open_is_noticed(
    tmp_path: Path, replace: Callable[[Path], None], message: str, held_open: bool
) -> None:
    """Whether the reader holds the file open (and reads the old bytes of a renamed one) or not."""
    cache = open_cache(write_cache(tmp_path / "c"), verify=True)
    cache.read(torch.tensor([0, 20] if held_open else [0]))
    replace(tmp_path / "c/shard-00001.safetensors")
    with pytest.raises(MdtError, match=message):
        cache.read(torch.tensor([0, 21]))


def test_a_shard_of_another_cache_is_noticed_when_it_is_first_read(tmp_path: Path) -> None:
    write_cache(tmp_path / "c")
    flip_byte(tmp_path / "c/shard-00002.safetensors")
    cache = open_cache(tmp_path / "c")
    cache.read(torch.tensor([0, 20]))
    with pytest.raises(MdtError, match=r"shard-00002.safetensors: its checksum"):
        cache.read(torch.tensor([40]))


def test_equal_bytes_are_read_on(tmp_path: Path) -> None:
    """A touched, restored or copied shard, and one that is written again, change nothing."""
    cache = open_cache(write_cache(tmp_path / "c"), verify=True)
    shard = tmp_path / "c/shard-00001.safetensors"
    expected = cache.read(torch.arange(ROWS)).mean
    os.utime(shard, ns=(1, 1))
    assert torch.equal(cache.read(torch.arange(ROWS)).mean, expected)
    copy = tmp_path / "copy"
    copy.write_bytes(shard.read_bytes())
    copy.replace(shard)
    assert torch.equal(cache.read(torch.arange(ROWS)).mean, expected)
    os.utime(tmp_path / "c/manifest.json")
    assert torch.equal(cache.read(torch.arange(ROWS)).mean, expected)
