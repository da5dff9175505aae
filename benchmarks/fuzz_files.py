"""Intact files of every format that is read, from which `fuzz.py` makes its inputs."""

import io
import tarfile
import zipfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save


def picture(kind: str, mode: str = "RGB", side: int = 24) -> bytes:
    """An encoded image of noise, with whatever the format has beside pixels."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {} if kind == "GIF" else {"exif": exif}
    image.save(file, kind, **extra)
    return file.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar with a long name in it, so that it has extended headers."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    """A zip, stored and deflated in turn."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number, (name, data) in enumerate(files.items()):
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return made.getvalue()


def checkpoint() -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(3, 4), "b": torch.ones(2)}, "step": 7, "x": [1.5]}, file)
    return file.getvalue()


def tensors() -> bytes:
    """A safetensors file of another program."""
    return save({"a": torch.zeros(3, 4), "b": torch.ones(2)}, {"format": "pt"})


def arrays() -> bytes:
    """An npz of images and labels."""
    file = io.BytesIO()
    np.savez_compressed(file, np.zeros((4, 8, 8, 3), np.uint8), np.arange(4))
    return file.getvalue()


def table() -> bytes:
    """A parquet file of images and labels."""
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    cells = [{"bytes": picture("PNG", side=8), "path": None}] * 3
    held = pyarrow.table({"image": cells, "label": [0, 1, 0]})
    pyarrow.parquet.write_table(held, file)
    return file.getvalue()
