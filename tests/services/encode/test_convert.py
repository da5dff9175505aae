"""Features of fast-DiT and LightningDiT, written as those projects write them, become our cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.events import CacheDone, Event, Warned
from tests.autoencoders import save_autoencoder


def run(images: Path, cache: Path, **options: object) -> list[Event]:
    events = list(encode_latents(EncodeRequest(images, cache, **({"shard_size": 4} | options))))
    assert isinstance(events[-1], CacheDone)
    return events


def fast_dit(root: Path, count: int = 12) -> torch.Tensor:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((count, 1, 4, 8, 8), np.float32)
    for part in ("features", "labels"):
        (root / f"imagenet256_{part}").mkdir(parents=True)
    for k in range(count):
        np.save(root / f"imagenet256_features/{k}.npy", latents[k])
        np.save(root / f"imagenet256_labels/{k}.npy", np.array([k % 3]))
    return torch.from_numpy(latents[:, 0])


def lightning(root: Path, stats: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(10, 6, 4, 4, generator=generator) * 3 + 1
    mirrored = torch.randn(10, 6, 4, 4, generator=generator)
    root.mkdir()
    for k, (start, stop) in enumerate([(0, 7), (7, 10)]):
        part = {"latents": latents[start:stop], "latents_flip": mirrored[start:stop]}
        part |= {"labels": torch.arange(start, stop) % 4}
        part = {name: tensor.contiguous() for name, tensor in part.items()}
        save_file(part, root / f"latents_rank{k:02d}_shard000.safetensors")
    if stats:
        told = {"mean": torch.full((1, 6, 1, 1), 1.5), "std": torch.full((1, 6, 1, 1), 2.0)}
        torch.save(told, root / "latents_stats.pt")
    return latents, mirrored


def test_fast_dit(tmp_path: Path) -> None:
    latents = fast_dit(tmp_path / "in")
    events = run(tmp_path / "in", tmp_path / "cache", dtype="float32")
    cache = open_cache(tmp_path / "cache", verify=True)
    rows = cache.read(torch.arange(12))
    assert torch.equal(rows.mean, latents)  # row 10 is 10.npy, not the second in the alphabet
    assert rows.std is None
    assert rows.label.tolist() == [k % 3 for k in range(12)]
    assert cache.facts.image_size == 64
    assert cache.facts.class_names == ("0", "1", "2")
    assert cache.facts.codec["id"] == "stabilityai/sd-vae-ft-ema"
    assert cache.facts.codec["scale"] == [0.18215] * 4
    assert any(isinstance(e, Warned) and "--codec" in e.text for e in events)
    again = run(tmp_path / "in", tmp_path / "cache", dtype="float32")[-1]
    assert isinstance(again, CacheDone)
    assert again.unchanged


def test_fast_dit_with_the_codec_named(tmp_path: Path) -> None:
    fast_dit(tmp_path / "in")
    codec = save_autoencoder(tmp_path / "kl", scaling_factor=0.5)
    run(tmp_path / "in/imagenet256_features", tmp_path / "cache", codec=codec)
    facts = open_cache(tmp_path / "cache").facts
    assert facts.codec["id"] == codec
    assert len(facts.codec["weights_sha256"]) == 64
    assert facts.codec["scale"] == [0.18215] * 4
    assert facts.image_size == 16


def test_lightning_is_normalised_by_its_statistics(tmp_path: Path) -> None:
    latents, mirrored = lightning(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "cache", dtype="float32")
    cache = open_cache(tmp_path / "cache", verify=True)
    assert torch.allclose(cache.read(torch.arange(10)).mean, (latents - 1.5) / 2, atol=1e-6)
    turned = cache.read(torch.arange(10), torch.ones(10).bool())
    assert torch.allclose(turned.mean, (mirrored - 1.5) / 2, atol=1e-6)
    assert turned.label.tolist() == [k % 4 for k in range(10)]
    assert (cache.facts.codec["shift"], cache.facts.codec["scale"]) == ([1.5] * 6, [0.5] * 6)
    assert cache.facts.codec["id"] is None


def test_lightning_without_statistics_is_counted(tmp_path: Path) -> None:
    lightning(tmp_path / "in", stats=False)
    run(tmp_path / "in", tmp_path / "cache", dtype="float32")
    facts = open_cache(tmp_path / "cache").facts
    assert np.allclose(facts.latent_mean, 0, atol=1e-6)
    assert np.allclose(facts.latent_std, 1, atol=1e-6)


def test_limit_and_unconditional(tmp_path: Path) -> None:
    latents = fast_dit(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "cache", dtype="float32", limit=3, unconditional=True)
    cache = open_cache(tmp_path / "cache")
    assert torch.equal(cache.read(torch.arange(3)).mean, latents[[0, 4, 8]])
    assert cache.facts.num_classes == 0


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    fast_dit(tmp_path / "in")
    with pytest.raises(MdtError, match="no mirrored latents"):
        run(tmp_path / "in", tmp_path / "cache", flip=True)
    with pytest.raises(MdtError, match="holds latents, not pixels"):
        run(tmp_path / "in", tmp_path / "cache", codec="pixels")
    other = save_autoencoder(tmp_path / "vq", "VQModel")
    with pytest.raises(MdtError, match="makes latents of"):
        run(tmp_path / "in", tmp_path / "cache", codec=other)
    (tmp_path / "in/imagenet256_labels/5.npy").unlink()
    with pytest.raises(MdtError, match=r"5\.npy is missing"):
        run(tmp_path / "in", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_damaged_features_are_named(tmp_path: Path) -> None:
    fast_dit(tmp_path / "in")
    (tmp_path / "in/imagenet256_features/3.npy").write_bytes(b"x")
    with pytest.raises(MdtError, match=r"3\.npy cannot be read"):
        run(tmp_path / "in", tmp_path / "cache", shard_size=None)
    lightning(tmp_path / "l")
    (tmp_path / "l/latents_rank01_shard000.safetensors").write_bytes(b"x")
    with pytest.raises(MdtError, match=r"latents_rank01_shard000\.safetensors cannot be read"):
        run(tmp_path / "l", tmp_path / "cache")
