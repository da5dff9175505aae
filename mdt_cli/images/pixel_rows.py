"""Files that hold images as rows of one array: npy here, MNIST's idx and CIFAR's batches beside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import Pixels
from mdt_cli.images.image_set import Found, ImageSet, make_set


@dataclass
class PixelRowReader:
    """Locations are (file, row); the file that was read last is kept."""

    paths: tuple[Path, ...]
    # A function of a module, so that it can be pickled: the images of a file, [N,H,W,1 or 3].
    load: Callable[[Path], NDArray[np.uint8]]
    _held: tuple[int, NDArray[np.uint8]] | None = field(default=None, repr=False)

    def read(self, location: tuple[int, int]) -> Pixels:
        """uint8 [H,W,3]; a single channel is repeated."""
        file, row = location
        if self._held is None or self._held[0] != file:
            self._held = (file, self.load(self.paths[file]))
        if row >= len(self._held[1]):
            raise MdtError(f"{self.paths[file]} became shorter while it was read", "write it again")
        pixels_HWC = self._held[1][row]
        return np.ascontiguousarray(np.broadcast_to(pixels_HWC, (*pixels_HWC.shape[:2], 3)))

    def files(self, locations: Sequence[tuple[int, int]]) -> set[Path]:
        """The files that are read."""
        return {self.paths[file] for file, _ in locations}

    def close(self) -> None:
        """Drop the file that was kept."""
        self._held = None


def rows_of(paths: Sequence[Path], shapes: Sequence[tuple[int, ...]]) -> list[Found]:
    """The images of files of these shapes; row 5 of `a` is named `a[5]`."""
    return [
        Found(f"{path.name}[{row}]", (number, row), "x".join(map(str, shape)))
        for number, (path, shape) in enumerate(zip(paths, shapes, strict=True))
        for row in range(shape[0])
    ]


def from_npy(path: Path) -> ImageSet:
    """The rows of one array, uint8 [N,H,W], [N,H,W,1] or [N,H,W,3], without classes."""
    shape = load_npy(path).shape
    reader = PixelRowReader((path,), load_npy)
    note = f"{path.name} holds no labels: an npz can, as arr_0 (images) and arr_1 (class numbers)"
    size = (shape[1], shape[2])
    return make_set(path, "npy", reader, rows_of([path], [shape]), None, {}, (note,), size)


def load_npy(path: Path) -> NDArray[np.uint8]:
    """The images of an npy file, mapped. Raises MdtError where it holds anything else."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise MdtError(
            f"{path} is not a readable npy: {error}", "copy it again, or write it with numpy.save"
        ) from error
    return as_images(stored, str(path))


def as_images(stored: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Images [N,H,W,1 or 3] of an array that may lack the axis of channels. MdtError otherwise."""
    shape = stored.shape
    if stored.dtype != np.uint8 or not (
        (len(shape) == 3 and min(shape[1:]) > 3) or (len(shape) == 4 and shape[3] in (1, 3))
    ):
        raise MdtError(
            f"{where} is {stored.dtype} {list(shape)}, but images are uint8 [N, H, W, 3]",
            "write uint8 images from 0 to 255, channels last"
            + (" (numpy.moveaxis(images, 1, 3))" if len(shape) == 4 and shape[1] in (1, 3) else ""),
        )
    if 0 in shape:
        raise MdtError(f"{where} holds no images: its shape is {list(shape)}")
    return stored[..., None] if len(shape) == 3 else stored
