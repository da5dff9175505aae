"""What a path is (folder, zip, tar, parquet, EDM2), and the images in it."""

import json
import os
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import DEFLATED, STORED, ArchiveReader, Extent, FolderReader
from mdt_cli.images.files import as_text, is_hidden, refuse_run, walk
from mdt_cli.images.image_set import Found, Source, kept, make_source, no_images
from mdt_cli.images.parquet import from_parquet
from mdt_cli.images.tar import from_tars

EDM_LABELS = "dataset.json"
SAMPLES = "samples.json"


def open_source(path: Path, labelled: bool = True) -> Source:
    """Find out what `path` is and list its images. Raises MdtError where there are none.

    `labelled` False: whatever the layout says about classes is not looked at.
    """
    if not path.exists():
        raise MdtError(f"no such folder or file: {path}", "give a folder, zip or tar of images")
    if path.is_dir():
        refuse_run(path)
        return _open_folder(path, labelled)
    # A tar whose last member is a zip also ends as a zip does.
    if path.suffix == ".tar":
        return from_tars([path], path.parent, labelled)
    if zipfile.is_zipfile(path):
        return _from_zip(path, labelled)
    if path.suffix == ".parquet":
        return from_parquet([path], path.parent, labelled)
    raise MdtError(
        f"{path} is neither a folder nor a zip, tar or parquet file",
        "unpack it, or give the folder that holds it",
    )


def _open_folder(path: Path, labelled: bool) -> Source:
    found = [
        Found(name, name, "broken link" if size is None else str(size)) for name, size in walk(path)
    ]
    names = [path / item.name for item in found if not item.name.rpartition("/")[2].startswith(".")]
    tars = [name for name in names if name.suffix == ".tar"]
    tables = [name for name in names if name.suffix == ".parquet"]
    ignored: Counter[str] = Counter()
    images = sorted(kept(found, ignored), key=lambda item: item.name)
    if (path / SAMPLES).is_file():
        # Of a folder that `mdt sample` drew: not the grid beside the samples.
        drawn = [item for item in images if PurePosixPath(item.name).stem.isdigit()]
        ignored["not a sample"] += len(images) - len(drawn)
        images = drawn
    if not images and tars:
        return from_tars(sorted(tars), path, labelled)
    if not images and tables:
        return from_parquet(sorted(tables), path, labelled)
    if not images:
        if any(name.name.startswith("img-mean-std-") for name in names):
            raise MdtError(
                f"{path} holds EDM2 latents (img-mean-std-*.npy), not images",
                "encode the images they were made from",
            )
        raise no_images(path, ignored)
    listing = path / EDM_LABELS
    reader = FolderReader(path)
    if not labelled:
        return make_source("folder", reader, images, None, ignored)
    if listing.is_file():
        found_labels = _edm_labels(listing.read_bytes(), images, path)
        return make_source("edm2-folder", reader, images, found_labels, ignored)
    inner, notes = labels.inside_wrapper([item.name for item in images])
    found_labels = labels.from_folders(inner, str(path))
    classes = found_labels[1]
    empty = sorted(
        entry.name
        for entry in os.scandir(path / images[0].name.removesuffix(inner[0]))
        if entry.is_dir() and not is_hidden(entry.name) and as_text(entry.name) not in classes
    )
    if empty:
        notes += (f"folders without images, left out of the classes: {', '.join(empty[:10])}",)
    return make_source("folder", reader, images, found_labels, ignored, notes)


def _from_zip(path: Path, labelled: bool) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            listing = archive.read(EDM_LABELS) if EDM_LABELS in archive.namelist() else None
    except (zipfile.BadZipFile, OSError) as error:
        raise MdtError(f"cannot read {path}: {error}", "copy or download it again") from error
    for member in members:
        if member.flag_bits & 1:
            raise MdtError(f"{path} is encrypted ({member.filename})", "unpack it first")
        if member.compress_type not in (STORED, DEFLATED):
            raise MdtError(
                f"{path} is packed by method {member.compress_type} ({member.filename}), which is "
                "neither stored nor deflated",
                "unpack it and give the folder",
            )
    ignored: Counter[str] = Counter()
    found = (
        Found(
            member.filename.removeprefix("./"),
            Extent(
                archive=0,
                offset=member.header_offset,
                stored=member.compress_size,
                size=member.file_size,
                method=member.compress_type,
                crc=member.CRC,
            ),
            f"{member.file_size} {member.CRC:08x}",
        )
        for member in members
    )
    images = sorted(kept(found, ignored), key=lambda item: item.name)
    if not images:
        if any("img-mean-std-" in member.filename for member in members):
            raise MdtError(
                f"{path} holds EDM2 latents (img-mean-std-*.npy), not images",
                "encode the images they were made from",
            )
        raise no_images(path, ignored)
    if listing is not None:
        ignored[".json"] -= 1
        found_labels = _edm_labels(listing, images, path) if labelled else None
        return make_source("edm2-zip", ArchiveReader((path,)), images, found_labels, +ignored)
    inner, notes = labels.inside_wrapper([item.name for item in images])
    images = [replace(item, name=name) for item, name in zip(images, inner, strict=True)]
    found_labels = labels.from_folders(inner, str(path)) if labelled else None
    return make_source("zip", ArchiveReader((path,)), images, found_labels, ignored, notes)


def _edm_labels(
    listing: bytes, images: list[Found], path: Path
) -> tuple[list[int], tuple[str, ...]]:
    where = f"{path}/{EDM_LABELS}"
    try:
        rows = json.loads(listing).get("labels")
        by_name = {str(name): label for name, label in rows} if rows else {}
    except (ValueError, TypeError, AttributeError) as error:
        raise MdtError(
            f"{where} is not what EDM2 writes: {error}",
            'expected {"labels": [["00000/img00000000.png", 0], ...]} or {"labels": null}',
        ) from error
    return labels.from_values([by_name.get(item.name) for item in images], None, where)
