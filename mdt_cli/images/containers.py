"""What contains images (a folder, an archive, a table, rows), and the set of images in it."""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import DEFLATED, STORED, ArchiveReader, Extent, FolderReader
from mdt_cli.images.arrow import from_saved, is_saved
from mdt_cli.images.files import as_text, is_hidden, walk
from mdt_cli.images.find_classes import find_classes
from mdt_cli.images.image_set import Found, ImageSet, chosen, kept, make_set, no_images
from mdt_cli.images.layout import Folders
from mdt_cli.images.listed import EDM_LABELS, Listing, sidecars
from mdt_cli.images.npz import from_npz
from mdt_cli.images.parquet import from_parquet
from mdt_cli.images.pickles import refused_pickle
from mdt_cli.images.reading import EVERYTHING, AmbiguousSetError, Reading
from mdt_cli.images.refused import refused_among, refused_format
from mdt_cli.images.row_files import from_row_files
from mdt_cli.images.tables import MAX_TABLE_BYTES
from mdt_cli.images.tar import from_tars
from mdt_cli.text import read_limited
from mdt_cli.zip_reader import ZIP_FAULTS, check_member, is_zip

# Where a stopped evaluation keeps its features; it may lie among class folders.
WORK = ".work"


def open_container(path: Path, reading: Reading = EVERYTHING) -> ImageSet:
    """Recognise the container at `path` and list its images. Raises MdtError where there are none.

    Classes that contradict each other are the set's `fault`, not an error.
    """
    if not path.exists():
        raise MdtError(
            f"no such folder or file: {path}", "give a folder of images, or a file that holds some"
        )
    if path.is_dir():
        return open_folder(path, reading=reading)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return from_npz(path, reading)
    # A tar whose last member is a zip also ends as a zip does.
    if suffix == ".tar":
        return from_tars([path], path.parent, path, reading)
    if is_zip(path):
        return _from_zip(path, reading)
    if suffix == ".parquet":
        return from_parquet([path], path.parent, path, reading)
    if suffix == ".zip" or _starts_a_zip(path):
        raise MdtError(f"{path} is not a readable zip", "it may be truncated: copy it again")
    if suffix in (".pkl", ".pickle"):
        raise refused_pickle(path)
    rows = from_row_files([path], path, reading)
    if rows is not None:
        return rows
    refused = refused_format(path)
    if refused is not None:
        raise refused
    raise MdtError(
        f"{path} is neither a folder nor a zip, tar, parquet, npz, npy, idx or CIFAR file",
        "unpack it, or give the folder that holds it",
    )


def _starts_a_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def open_folder(
    path: Path, wanted: Callable[[str], bool] | None = None, reading: Reading = EVERYTHING
) -> ImageSet:
    """The images at any depth below `path`, else those in its tars, else in its parquet files.

    Images whose relative path is not `wanted` are counted as ignored.
    """
    found = [
        Found(name, name, "broken link" if size is None else str(size)) for name, size in walk(path)
    ]
    names = [path / item.name for item in found if not item.name.rpartition("/")[2].startswith(".")]
    tars = [name for name in names if name.suffix.lower() == ".tar"]
    tables = [name for name in names if name.suffix == ".parquet"]
    ignored: Counter[str] = Counter()
    everything = list(kept(found, ignored))
    if wanted is not None:
        samples = [item for item in everything if wanted(item.name)]
        ignored["not a sample"] += len(everything) - len(samples)
        everything = samples
    if wanted is None:
        _check_one_kind(path, reading, everything, tars, tables)
    named = [item for item in (*tars, *tables) if reading.wants(item.relative_to(path).as_posix())]
    if reading.only and named and not any(reading.wants(item.name) for item in everything):
        everything = []
    images = chosen(everything, reading, path, ignored)
    if not images and tars:
        return from_tars(tars, path, path, reading)
    if not images and tables:
        return from_parquet(tables, path, path, reading)
    if not images:
        if any(name.name.startswith("img-mean-std-") for name in names):
            raise _edm_latents(path)
        others = from_saved(path, reading) if is_saved(path) else None
        others = others or from_row_files(names, path, reading)
        if others is not None:
            return others
        raise refused_among(names) or no_images(path, ignored)
    folders = Folders.of([item.name for item in images], path, reading)
    notes = folders.notes
    empty = _empty_folders(path / folders.wrapper, folders.inner)
    if empty:
        notes += (f"folders without images, left out of the classes: {', '.join(empty[:10])}",)
    listing = Listing(
        path, found, images, lambda item: read_limited(path / item.name, MAX_TABLE_BYTES)
    )
    find = partial(_find, listing, reading, folders, notes)
    kind = "edm2-folder" if (path / EDM_LABELS).is_file() else "folder"
    return make_set(path, kind, FolderReader(path), images, find, ignored, listing.notes)


def _find(
    listing: Listing, reading: Reading, folders: Folders, notes: Sequence[str]
) -> labels.Classes:
    return find_classes(listing, reading, folders, notes, partial(sidecars, listing, reading))


def _check_one_kind(
    path: Path,
    reading: Reading,
    images: Sequence[Found],
    tars: Sequence[Path],
    tables: Sequence[Path],
) -> None:
    """AmbiguousSetError for a folder of images and archives; the user's patterns decide."""
    if reading.only or reading.by_first_rules:
        return
    data = [table for table in tables if table.name != "metadata.parquet"]
    kinds = {
        f"images such as {as_text(images[0].name)}" if images else "": images,
        f"tars such as {tars[0].name}" if tars else "": tars,
        f"parquet files such as {data[0].name}" if data else "": data,
    }
    held = [f"{len(items)} {kind}" for kind, items in kinds.items() if kind]
    if len(held) > 1:
        ending = "tar" if tars else "parquet"
        raise AmbiguousSetError(
            f"{path} holds {' and '.join(held)}",
            f"choose which are read: {reading.only_option} '*.{ending}', or patterns of the images",
        )


def _empty_folders(folder: Path, inner: list[str]) -> list[str]:
    """Folders beside the classes in which no image lies, by name."""
    filled = {as_text(name.partition("/")[0]) for name in inner}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir()
        and not is_hidden(entry.name)
        and not entry.name.endswith(WORK)
        and as_text(entry.name) not in filled
    )


def _from_zip(path: Path, reading: Reading) -> ImageSet:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                check_member(member, path)
    except ZIP_FAULTS as error:
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
    found = [_zip_member(member) for member in members]
    images = chosen(list(kept(found, ignored)), reading, path, ignored)
    if not images:
        if any("img-mean-std-" in member.filename for member in members):
            raise _edm_latents(path)
        raise no_images(path, ignored)
    folders = Folders.of([item.name for item in images], path, reading)
    listing = Listing(path, found, images, partial(_zip_bytes, path))
    find = partial(_find, listing, reading, folders, folders.notes)
    reader = ArchiveReader((path,))
    if any(item.name == EDM_LABELS for item in found):
        ignored[".json"] -= 1
        return make_set(path, "edm2-zip", reader, images, find, +ignored, listing.notes)
    images = [
        Found(name, item.location, item.stamp)
        for item, name in zip(images, folders.inner, strict=True)
    ]
    return make_set(path, "zip", reader, images, find, ignored, listing.notes)


def _zip_bytes(path: Path, item: Found) -> bytes:
    with closing(ArchiveReader((path,))) as reader:
        return reader.read(item.location)


def _zip_member(member: zipfile.ZipInfo) -> Found:
    extent = Extent(
        archive=0,
        offset=member.header_offset,
        stored=member.compress_size,
        size=member.file_size,
        method=member.compress_type,
        crc=member.CRC,
    )
    name = member.filename.removeprefix("./")
    return Found(name, extent, f"{member.file_size} {member.CRC:08x}")


def _edm_latents(path: Path) -> MdtError:
    return MdtError(
        f"{path} holds EDM2 latents (img-mean-std-*.npy), not images",
        "encode the images they were made from",
    )
