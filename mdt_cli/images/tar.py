"""WebDataset tars: samples are files with one key; `.cls` or `.json` beside an image labels it."""

import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import ArchiveReader, Extent
from mdt_cli.images.beside import Beside
from mdt_cli.images.companions import check_samples
from mdt_cli.images.files import is_image
from mdt_cli.images.find_classes import find_classes
from mdt_cli.images.image_set import Found, ImageSet, chosen, kept, make_set, no_images
from mdt_cli.images.layout import Folders
from mdt_cli.images.listed import Listing
from mdt_cli.images.reading import Reading
from mdt_cli.images.shards import check_shards
from mdt_cli.zip_reader import ZIP_FAULTS


def from_tars(paths: Sequence[Path], root: Path, path: Path, reading: Reading) -> ImageSet:
    """The images of all tars below `root`, listed for `path`; one is named `shard.tar/member`.

    Without label files, folders inside the tars are the classes. Raises MdtError for a damaged or
    compressed tar.
    """
    paths = sorted(paths, key=lambda tar: reading.key(tar.relative_to(root).as_posix()))
    check_shards([tar.relative_to(root).as_posix() for tar in paths], path, reading)
    found: list[Found] = []
    beside = Beside(reading, str(path))
    for number, tar in enumerate(paths):
        try:
            _list(tar, number, tar.relative_to(root).as_posix(), found, beside)
        except (tarfile.TarError, *ZIP_FAULTS) as error:
            raise MdtError(
                f"cannot read {tar}: {error}",
                "copy or download it again; packed tars (.tar.gz) must be unpacked to .tar",
            ) from error
    ignored: Counter[str] = Counter()
    shards = [f"{tar.relative_to(root).as_posix()}/" for tar in paths]

    def member(item: Found) -> str:
        return item.name.removeprefix(shards[item.location.archive])

    images = chosen(list(kept(found, ignored)), reading, path, ignored, member)
    if not images:
        raise no_images(path, ignored)
    for label_file in (".cls", ".json"):
        ignored.pop(label_file, None)
    reader = ArchiveReader(tuple(paths))
    folders = Folders.of([member(item) for item in images], root, reading)
    listing = Listing(path, found, images, partial(_bytes, reader.paths))
    check = partial(check_samples, [item.name for item in images], bool(beside.samples))

    def find() -> labels.Classes:
        check(path, reading)
        return find_classes(listing, reading, folders, folders.notes, lambda: beside, True)

    return make_set(path, "webdataset", reader, images, find, ignored, listing.notes)


def _bytes(paths: tuple[Path, ...], item: Found) -> bytes:
    with closing(ArchiveReader(paths)) as reader:
        return reader.read(item.location)


def _list(path: Path, number: int, shard: str, found: list[Found], beside: Beside) -> None:
    # "r:" reads plain tars only: a packed one cannot be entered in the middle.
    with tarfile.open(path, "r:") as tar:
        last = -1
        for member in tar:
            # A size below zero would lead back to what was read, without end.
            if member.size < 0 or member.offset <= last:
                raise tarfile.ReadError(f"{member.name} lies before the member before it")
            last = member.offset
            if not member.isfile():
                continue
            name = f"{shard}/{member.name.removeprefix('./')}"
            size = member.size
            found.append(Found(name, Extent(number, member.offset_data, size, size), str(size)))
            if not is_image(name) and beside.wants(name, size):
                file = tar.extractfile(member)
                beside.add(name, file.read() if file is not None else b"")
