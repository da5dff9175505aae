"""One command at a time writes a folder or a file: a lock that ends with its process."""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mdt_cli.errors import MdtError
from mdt_cli.files import LOCK, cannot_write, remove_leftovers, remove_leftovers_of
from mdt_cli.json_reader import read_json

# Whoever removes its lock file meets those that opened it meanwhile: they open the next one.
SECONDS_TO_TRY = 0.3
MOST_BYTES = 4096
# What file systems without locks answer: some network mounts, and those of some containers.
WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


@contextmanager
def writing_folder(folder: Path, sweep: bool = True) -> Iterator[str | None]:
    """Within, this command alone writes `folder`, which is made; see `_held`.

    `sweep`: what killed commands left half-written goes, and no other process of this command
    writes there already. A folder that was made and stayed empty is removed again.
    """
    with _folder(folder) as there:
        if not there:
            yield None
            return
        with _held(_file(folder, is_folder=True), folder) as problem:
            if sweep:
                remove_leftovers(folder, even_running=problem is None)
            yield problem


@contextmanager
def writing_file(target: Path) -> Iterator[str | None]:
    """As `writing_folder`, for a file, or a folder that appears complete: the lock is beside it."""
    with _folder(target.parent) as there:
        if not there:
            yield None
            return
        with _held(_file(target, is_folder=False), target) as problem:
            remove_leftovers_of(target, even_running=problem is None)
            yield problem


def is_held(target: Path, is_folder: bool, rank: int = 0) -> bool:
    """Whether a process has the lock of `target`, or is present there as `rank` above 0.

    True where the file system has no locks to ask.
    """
    file = _file(target, is_folder, rank)
    if not file.exists():
        return False
    lock = FileLock(file, 0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return True
    lock.release()
    return False


@contextmanager
def present(target: Path, is_folder: bool, rank: int) -> Iterator[None]:
    """Within, the process `rank` above 0 of a launch is seen to work on `target` (`is_held`)."""
    with _folder(target if is_folder else target.parent) as there:
        if not there:
            yield
            return
        with _held(_file(target, is_folder, rank), target):
            yield


def _file(target: Path, is_folder: bool, rank: int = 0) -> Path:
    by = f".{rank}" if rank else ""
    return target / f"{by}{LOCK}" if is_folder else target.with_name(f".{target.name}{by}{LOCK}")


@contextmanager
def _folder(folder: Path) -> Iterator[bool]:
    """Make the folder, and remove it where it stayed empty; whether a folder is there now."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = True
    except (FileExistsError, NotADirectoryError):
        # A file stands there: whoever wants to write the folder says so in its own words.
        there = False
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield there
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def _held(file: Path, what: Path) -> Iterator[str | None]:
    """MdtError, which names the holder, while another process writes `what`.

    Yields a warning where the file system has no locks. The operating system ends the lock with the
    process, however that ends; the file with the name of the holder may then stay, and is no lock.
    """
    lock = FileLock(file, SECONDS_TO_TRY, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise MdtError(
            f"{what} is being written by another command: {_holder(file)}",
            "wait until it has finished, stop it, or choose another path",
        ) from error
    except NotImplementedError:
        yield _not_locked(what, "its file system has no locks")
        return
    except PermissionError as error:
        # Where nothing can be written, whoever wants to write says so in its own words.
        writable = os.access(file.parent, os.W_OK)
        yield _not_locked(what, f"{file}: {error.strerror}") if writable else None
        return
    except OSError as error:
        if error.errno == errno.EROFS:
            yield None
            return
        if error.errno not in WITHOUT_LOCKS:
            raise cannot_write(file, error) from error
        with suppress(OSError):
            file.unlink()
        yield _not_locked(what, f"its file system has no locks: {error.strerror or error}")
        return
    try:
        _sign(file)
        yield None
    finally:
        # While it is held: later, it might be the lock of another command.
        with suppress(OSError):
            file.unlink()
        lock.release()


def _sign(file: Path) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
    try:
        file.write_text(json.dumps(holder) + "\n", "utf-8")
    except OSError as error:
        raise cannot_write(file, error) from error


def _holder(file: Path) -> str:
    try:
        found = read_json(file, MOST_BYTES)
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return f"{file} does not name its process"


def _not_locked(what: Path, why: str) -> str:
    return (
        f"{what} cannot be locked ({why}): nothing stops a second command that writes there at the "
        "same time, so start only one"
    )
