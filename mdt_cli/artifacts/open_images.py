"""The function that every command opens images with, whatever holds them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdt_cli.artifacts.foreign_weights import refuse_torch_file
from mdt_cli.artifacts.latent_cache.as_images import cached_images, is_cache
from mdt_cli.artifacts.sample_folder.provenance import is_sample, provenance, sample_classes
from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.containers import open_container, open_folder
from mdt_cli.images.files import is_hidden, is_image, walk
from mdt_cli.images.image_set import ImageSet, without_classes
from mdt_cli.images.npz import from_npz
from mdt_cli.images.reading import EVERYTHING, AmbiguousSetError, Reading
from mdt_cli.images.refused import undecoded

CHECKPOINT = ("state.json", "weights.safetensors")
# Kinds of sets whose images have no paths.
WITHOUT_NAMES = ("npz", "npy", "latent cache")
TABLES = ("parquet", "arrow")
# Rows in files that --only may choose from.
ROWS = ("idx", "cifar")
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def open_images(path: Path, reading: Reading = EVERYTHING) -> ImageSet:
    """The images in a folder, archive, npz, sample folder or latent cache of pixels.

    Classes that contradict each other are the set's `fault`. Raises MdtError where it is not clear
    which images are meant, and for a run, a checkpoint, weights, and what else holds no images.
    """
    images = _open(path, reading)
    if isinstance(images.fault, AmbiguousSetError):
        raise images.fault
    _check_undecoded(images, path, reading)
    fixed = images.kind in WITHOUT_NAMES or images.provenance is not None
    if fixed and reading.options:
        raise MdtError(
            f"{' and '.join(reading.options)} cannot be used for {path} ({images.kind}), whose "
            "images and classes are fixed",
            f"leave out {' and '.join(reading.options)}",
        )
    named = [option for option in reading.options if option.startswith("--label")]
    if images.kind in TABLES and named and named != ["--label-column"]:
        raise MdtError(
            f"{named[0]} needs names of files, and {path} holds rows of {images.kind} files",
            "name the column of classes with --label-column",
        )
    others = [option for option in reading.options if option != reading.only_option]
    if images.kind in ROWS and others:
        raise MdtError(
            f"{others[0]} cannot be used for {path} ({images.kind}): its classes are in its files",
            f"leave out {others[0]}",
        )
    return images


def _check_undecoded(images: ImageSet, path: Path, reading: Reading) -> None:
    """MdtError for a set that holds images of formats that are not decoded beside its others."""
    for ending, count in sorted(images.ignored.items()):
        what = undecoded(ending)
        if what is not None and count > 0 and not (reading.only or reading.by_first_rules):
            raise MdtError(
                f"{path} holds {count} files of {what} ({ending}), which are not decoded",
                "convert them to PNG or JPEG, or leave them out: "
                f"{reading.only_option} '!*{ending}'",
            )


def _open(path: Path, reading: Reading) -> ImageSet:
    if not path.is_dir():
        if path.is_file() and path.suffix.lower() in WEIGHTS:
            refuse_torch_file(path)
            raise MdtError(
                f"{path} holds weights, not images",
                f"generate samples with them first: mdt sample {path} SAMPLES",
            )
        return open_container(path, reading)
    if is_cache(path):
        return cached_images(path)
    _check_no_run(path)
    facts = provenance(path)
    return open_folder(path, reading=reading) if facts is None else _samples(path, facts)


def _samples(folder: Path, facts: Mapping[str, Any]) -> ImageSet:
    """The numbered images, or the rows of the one npz, with the classes that `facts` record."""
    arrays = sorted(path for path in folder.glob("*.npz") if not is_hidden(path.name))
    numbered = any(is_image(name) and is_sample(name) for name, _ in walk(folder))
    if numbered or len(arrays) != 1:
        images = open_folder(folder, is_sample)
        found = sample_classes(facts, images.names)
        labelled = without_classes(images)
    else:
        images = labelled = replace(from_npz(arrays[0]), path=folder)
        found = sample_classes(facts, None)
    if found is not None and len(found) == len(images):
        numbers, names = labels.from_values(found, None, str(folder))
        labelled = replace(images, labels=numbers, classes=names, fault=None)
    return replace(labelled, kind="sample folder", provenance=facts)


def _check_no_run(folder: Path) -> None:
    """MdtError for a run, a folder of runs or a checkpoint: the images inside are previews."""
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
        runs = [run for run in (folder, *inner) if (run / "checkpoints").is_dir()]
    except OSError:
        return  # whoever lists the folder says why it cannot be read
    for run in runs:
        if (run / "config.toml").is_file():
            raise MdtError(
                f"{run} is a training run, and its images are previews",
                f"generate samples from it first: mdt sample {run} SAMPLES",
            )
    if all((folder / name).is_file() for name in CHECKPOINT):
        raise MdtError(
            f"{folder} is a checkpoint, not a folder of images",
            f"generate samples from it first: mdt sample {folder} SAMPLES",
        )
