"""Which of the files that hold images as rows of an array lie in a folder."""

from collections.abc import Sequence
from pathlib import Path

from mdt_cli.images.cifar import from_batches, is_batch
from mdt_cli.images.idx import from_idx, is_idx
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.npz import from_npz
from mdt_cli.images.pixel_rows import from_npy
from mdt_cli.images.reading import AmbiguousSetError, Reading


def from_row_files(files: Sequence[Path], path: Path, reading: Reading) -> ImageSet | None:
    """The images of the idx files, CIFAR batches or arrays among `files`, listed for `path`.

    None where there are none of these; AmbiguousSetError where there are several sets.
    """
    arrays = [file for file in files if file.suffix.lower() in (".npz", ".npy")]
    sets = [
        *_by_folder([file for file in files if is_idx(file)]),
        *_by_folder([file for file in files if is_batch(file)]),
        *([file] for file in arrays),
    ]
    if len(sets) > 1:
        listed = ", ".join(sorted(str(held[0].relative_to(path)) for held in sets)[:6])
        raise AmbiguousSetError(
            f"{path} holds several sets of images: {listed}",
            f"give one of them: {sets[0][0] if len(sets[0]) == 1 else sets[0][0].parent}",
        )
    if not sets:
        return None
    (held,) = sets
    if held == arrays:
        return from_npz(held[0], reading) if held[0].suffix.lower() == ".npz" else from_npy(held[0])
    return (from_idx if is_idx(held[0]) else from_batches)(held, path, reading)


def _by_folder(files: Sequence[Path]) -> list[list[Path]]:
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    return list(folders.values())
