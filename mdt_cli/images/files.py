"""Which files of a folder or an archive are images: the same for training and for scoring."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from mdt_cli.errors import MdtError

JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")
PLAIN = (".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".tif", ".tiff")
SUFFIXES = frozenset({*JPEGS, *PLAIN, ".png", ".gif", ".webp", ".avif"})
# What macOS adds to zips.
JUNK = "__MACOSX"


def suffix(name: str) -> str:
    """The suffix in lower case, with its dot."""
    # Not PurePosixPath(name).suffix: listing 50,000 files would take a second longer.
    return posixpath.splitext(name)[1].lower()


def as_text(name: str) -> str:
    """A name for people and for JSON: bytes that are not UTF-8 as escapes."""
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        # Half a character, which JSON can hold and no file name.
        return name.encode("utf-8", "backslashreplace").decode()


def is_image(name: str) -> bool:
    """Whether a name has the suffix of an image."""
    return suffix(name) in SUFFIXES


def is_packed_tar(name: str) -> bool:
    """Whether a name is that of a compressed tar, which has no random access."""
    return name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"))


def is_hidden(name: str) -> bool:
    """Whether a relative path has a part that begins with a dot, or is macOS's.

    Some archives name their members `./1.png`: that dot hides nothing.
    """
    rooted = f"/{name}/"
    if f"/{JUNK}/" in rooted:
        return True
    return "/." in rooted and any(part.startswith(".") and part != "." for part in name.split("/"))


def walk(root: Path) -> Iterator[tuple[str, int | None]]:
    """Relative path and bytes of each file below `root`; None for a broken link.

    Links are followed, a link back to a folder above it is not; hidden folders are not entered.
    What is removed while the list is made, such as another process's temporary, is not in it.
    """
    yield from _below(root, "", frozenset())


def _below(root: Path, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, int | None]]:
    folder = root / prefix if prefix else root
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        if prefix and isinstance(error, FileNotFoundError):
            return
        raise MdtError(
            f"cannot read {folder}: {error.strerror}",
            "make it readable, or move it out of the set",
        ) from error
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        if _is_folder(entry):
            if not is_hidden(entry.name):
                yield from _below(root, name, above | {real})
            continue
        try:
            size = entry.stat().st_size if entry.is_file() else None
        except FileNotFoundError:
            continue
        except OSError:
            size = None
        yield name, size


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder or a link to one; a link that leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
