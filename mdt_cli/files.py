"""Atomic writes: to a temporary name beside the target, flushed, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError

TEMPORARY = ".tmp-"
# How the names of lock files end; see `locks.py`.
LOCK = ".mdt-lock"
# Files that systems put into folders unasked.
SYSTEM_FILES = frozenset({"desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", "__macosx"})


def is_bystander(name: str) -> bool:
    """Whether a file says nothing of the folder that it lies in.

    Those of operating systems (`.DS_Store`, `Thumbs.db`, `._0.png` beside `0.png`, `.nfs0001` of a
    file that is removed and still open) and this program's own temporaries and locks.
    """
    own = name.startswith((TEMPORARY, "._", ".nfs", ".fuse_hidden")) or name.endswith(LOCK)
    return own or name == ".DS_Store" or name.lower() in SYSTEM_FILES


def temporary_beside(target: Path) -> Path:
    """A name in the folder of `target` that no other process on this machine uses."""
    return target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path (file or folder) beside `target`, renamed over it on success.

    Whatever was written is flushed to disk first. On any error, a signal included, the temporary
    is removed and `target` is as it was. Raises MdtError if `target` cannot be written.
    """
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
        _flush(target.parent, recurse=False)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            # A folder that cannot be written may not be readable either; the error is raised above.
            with suppress(OSError):
                temporary.unlink()


def remove_leftovers(folder: Path, even_running: bool = False) -> None:
    """Remove the temporaries in `folder` that killed processes left behind.

    `even_running`: none of them is in use, whoever has the number of its process now.
    """
    _remove(folder.glob(f"{TEMPORARY}*"), even_running)


def remove_leftovers_of(target: Path, even_running: bool = False) -> None:
    """As `remove_leftovers`, of those beside `target` that were to become it."""
    if target.parent.is_dir():
        beside = (path for path in target.parent.iterdir() if path.name.startswith(TEMPORARY))
        _remove((path for path in beside if path.name.endswith(f"-{target.name}")), even_running)


def _remove(temporaries: Iterable[Path], even_running: bool) -> None:
    for path in temporaries:
        pid = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if not even_running and pid.isdigit() and _is_another_running(int(pid)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            # In a folder that cannot be written to, whoever wants to write it says so.
            with suppress(OSError):
                path.unlink()


def _is_another_running(pid: int) -> bool:
    """Whether another live process has this number; numbers are reused, in containers even ours."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def check_writable(target: Path) -> None:
    """Fail now rather than after hours: MdtError unless a file beside `target` can be written."""
    probe = temporary_beside(target)
    remove_leftovers_of(target)
    try:
        if target.is_dir():
            raise MdtError(f"cannot write {target}: it is a folder", "name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        _flush(probe)
    except (FileExistsError, NotADirectoryError) as error:
        raise MdtError(
            f"cannot write {target}: {target.parent} is not a folder", "choose another path"
        ) from error
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def cannot_write(target: Path, error: OSError) -> MdtError:
    """The MdtError for a write that failed with `error`; a full disk has its own message."""
    if error.errno == errno.ENOSPC:
        return MdtError(
            f"the disk is full: {target} was not written",
            "free some space and run the same command again; finished work is kept",
        )
    return MdtError(f"cannot write {target}: {error.strerror or error}", "choose another path")


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before


# Read once, while no thread can be creating files.
_MODE = 0o666 & ~_umask()


def _flush(path: Path, recurse: bool = True) -> None:
    if recurse and path.is_dir():
        for inner in path.iterdir():
            _flush(inner)
    elif path.is_file():
        # Some libraries write files that only their owner may read.
        path.chmod(path.stat().st_mode | _MODE)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(target: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as indented JSON, atomically."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(target) as temporary:
        # Bytes of file names that are not UTF-8 become escapes, which JSON decodes again.
        temporary.write_text(text, "utf-8", errors="backslashreplace")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
