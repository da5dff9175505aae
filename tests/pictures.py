"""Small pictures for tests: every one different, every one known."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def array(seed: int, width: int = 16, height: int = 16, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(seed: int, width: int = 16, height: int = 16) -> bytes:
    return encoded(Image.fromarray(array(seed, width, height)))


def class_files(classes: int = 3, each: int = 5, size: int = 16) -> dict[str, bytes]:
    return {
        f"{'abcdefgh'[k]}/{i:03d}.png": png(100 * k + i, size, size)
        for k in range(classes)
        for i in range(each)
    }


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path
