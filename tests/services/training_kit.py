"""A small cache and a small run, made the way users make them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mdt_cli.config.load import Loaded, load_config
from mdt_cli.files import sha256_of
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.train.start import pretrain

ROOT = Path(__file__).resolve().parents[2]
# A masked and a full view, a learned fill, skips, Adan, two averages: everything that has state.
SMALL = (
    "model.hidden_size=16",
    "model.depth=4",
    "model.num_heads=2",
    "model.patch_size=4",
    "model.decoder_depth=2",
    "masking.restore_at=-2",
    "training.batch_size=8",
    "training.micro_batch_size=4",
    "ema.decays=[0.9, 0.99]",
    "optimizer.lr=1e-3",
    "checkpoint.every=1000",
    "log.every=1",
    "validation.every=0",
    "preview.every=0",
    "data.held_out=2",
)


def make_images(folder: Path, classes: int = 2, per_class: int = 20, size: int = 16) -> Path:
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(per_class):
            pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            pixels[..., label % 3] //= 4
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{index:03d}.png")
    return folder


def make_cache(folder: Path, images: Path, size: int = 16, flip: bool = True) -> Path:
    for _ in encode_latents(EncodeRequest(images, folder, size=size, flip=flip, workers=1)):
        pass
    return folder


def small(steps: int, *assignments: str, presets: tuple[str, ...] = ("mdtv2",)) -> Loaded:
    return load_config(list(presets), [*SMALL, f"training.steps={steps}", *assignments])


def run(cache: Path, folder: Path, loaded: Loaded, **options: int) -> list[object]:
    return list(pretrain(cache, folder, loaded, **options))


def digests(folder: Path, step: int) -> dict[str, str]:
    """Of every file that holds tensors."""
    checkpoint = folder / "checkpoints" / f"step-{step:07d}"
    return {file.name: sha256_of(file) for file in sorted(checkpoint.glob("*.safetensors"))}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def command(*words: str, processes: int = 1) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "mdt_cli", *words]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={processes}", "-m", "mdt_cli", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def mdt(*words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, processes=processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assignments(loaded_steps: int, *extra: str) -> list[str]:
    words = ["-p", "mdtv2"]
    for text in (*SMALL, f"training.steps={loaded_steps}", *extra):
        words += ["--set", text]
    return words
