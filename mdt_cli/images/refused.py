"""Formats of images that are known and not read, each with what to do instead."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.files import is_packed_tar

VECTOR = "a vector format"
NPZ = "write the images as an npz: arr_0 uint8 [N, H, W, 3], arr_1 class numbers"
FILES = "write each image to a file, in a folder per class"
# Ends of names -> (what that is, what to do).
REFUSED = {
    (".h5", ".hdf5"): ("an HDF5 file", NPZ),
    (".mat",): ("a MATLAB file", NPZ),
    (".tfrecord", ".tfrecords"): ("a TFRecord file", FILES),
    (".beton",): ("an FFCV file", FILES),
    (".mds", ".mds.zstd"): ("a MosaicML shard", FILES),
    (".rec",): ("an MXNet RecordIO file", FILES),
    (".rar",): ("a RAR archive", "unpack it and give the folder"),
    (".7z",): ("a 7z archive", "unpack it and give the folder"),
    (".mp4", ".avi", ".mkv", ".webm", ".mov"): ("a video", "write its frames to image files"),
}
# Ends of names of images that are not decoded.
UNDECODED = {
    (".heic", ".heif"): "HEIC",
    (".jxl",): "JPEG XL",
    (".dng", ".cr2", ".cr3", ".nef", ".arw"): "a camera's raw format",
    (".dcm",): "DICOM",
    (".exr",): "OpenEXR",
    (".svg", ".eps", ".pdf", ".ai"): VECTOR,
    (".psd",): "Photoshop's format",
}
LMDB = "data.mdb"


def refused_format(path: Path) -> MdtError | None:
    """The error for a file of a format that is not read; None for one that is not known."""
    name = path.name.lower()
    if is_packed_tar(name):
        return packed_tar(path)
    if name == LMDB or name.endswith(".lmdb"):
        return _lmdb(path.parent if name == LMDB else path)
    for ends, (what, hint) in REFUSED.items():
        if name.endswith(ends):
            return MdtError(f"{path} is {what}, which is not read", hint)
    for ends, what in UNDECODED.items():
        if name.endswith(ends):
            return MdtError(f"{path} is {what}, which is not decoded", "convert it to PNG or JPEG")
    return None


def undecoded(ending: str) -> str | None:
    """The format of images of this ending that are not decoded; drawings may be documents."""
    found = (what for ends, what in UNDECODED.items() if ending in ends and what != VECTOR)
    return next(found, None)


def refused_among(paths: Sequence[Path]) -> MdtError | None:
    """The error for the first file of a folder without images that is of a known format."""
    return next(filter(None, map(refused_format, sorted(paths))), None)


def packed_tar(path: Path) -> MdtError:
    """The error for a compressed tar, with the command that unpacks it."""
    name = path.name
    for end in (".gz", ".xz", ".bz2", ".zst", ".tgz", ".tar"):
        name = name.removesuffix(end)
    folder = path.with_name(name)
    made = shlex.quote(str(folder))
    return MdtError(
        f"{path} is a packed tar, which has no random access",
        f"unpack it and give the folder {folder}: "
        f"mkdir {made} && tar -xf {shlex.quote(str(path))} -C {made}",
    )


def _lmdb(path: Path) -> MdtError:
    target = path.with_name(f"{path.name}-images")
    program = (
        f"import lmdb, pathlib; out = pathlib.Path({str(target)!r}); out.mkdir(); "
        f"rows = lmdb.open({str(path)!r}, readonly=True, lock=False, "
        f"subdir={path.is_dir()}).begin().cursor(); "
        '[(out / f"{k:08d}.webp").write_bytes(value) for k, (_, value) in enumerate(rows)]'
    )
    return MdtError(
        f"{path} is an LMDB database, which is not read",
        f"where its values are image files, as LSUN's are, pip install lmdb and write them to "
        f"{target}: python -c {shlex.quote(program)}",
    )
