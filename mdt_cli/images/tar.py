"""WebDataset tars: samples are files with one key; `.cls` or `.json` beside an image labels it."""

import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import ArchiveReader, Extent
from mdt_cli.images.companions import check_samples
from mdt_cli.images.image_set import Found, ImageSet, chosen, kept, make_set, no_images
from mdt_cli.images.layout import classes_from_folders
from mdt_cli.images.reading import Reading
from mdt_cli.json_reader import parse_json

# A label file is a number or a line of JSON; anything longer is not read.
MAX_LABEL_BYTES = 1 << 20
JSON_KEYS = ("label", "cls", "class_label", "class")


def from_tars(paths: Sequence[Path], root: Path, path: Path, reading: Reading) -> ImageSet:
    """The images of all tars below `root`, listed for `path`; one is named `shard.tar/member`.

    Without label files, folders inside the tars are the classes. Raises MdtError for a damaged or
    compressed tar.
    """
    paths = sorted(paths, key=lambda tar: reading.key(tar.relative_to(root).as_posix()))
    found: list[Found] = []
    beside: dict[str, object] = {}
    for number, tar in enumerate(paths):
        try:
            _list(tar, number, tar.relative_to(root).as_posix(), found, beside)
        except (tarfile.TarError, OSError, EOFError) as error:
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
    reader, where = ArchiveReader(tuple(paths)), str(root)
    from_files, _, notes = classes_from_folders([member(item) for item in images], root, reading)
    values = [beside.get(_key(item.name)) for item in images] if beside else None

    def find() -> labels.Classes:
        check_samples([item.name for item in images], values is not None, path, reading)
        if values is None:
            return from_files()
        return labels.from_values(values, None, where, reading)

    notes = notes if values is None else ()
    return make_set(path, "webdataset", reader, images, find, ignored, notes)


def _list(
    path: Path, number: int, shard: str, found: list[Found], beside: dict[str, object]
) -> None:
    # "r:" reads plain tars only: a packed one cannot be entered in the middle.
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            name = f"{shard}/{member.name.removeprefix('./')}"
            size = member.size
            found.append(Found(name, Extent(number, member.offset_data, size, size), str(size)))
            if member.name.endswith((".cls", ".json")) and size <= MAX_LABEL_BYTES:
                file = tar.extractfile(member)
                label = _label(name, file.read() if file is not None else b"")
                if label is not None:
                    beside[_key(name)] = label


def _label(name: str, data: bytes) -> object:
    text = data.decode("utf-8", "replace").strip()
    if name.endswith(".cls"):
        return text
    try:
        entry = parse_json(text)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    return next((entry[key] for key in JSON_KEYS if key in entry), None)


def _key(name: str) -> str:
    """The path up to the first dot of the file name: what joins an image and its label."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"
