"""Files of a cache that must stay what they were when they were opened."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mdt_cli.artifacts.latent_cache.manifest import AGAIN
from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of

# Size, inode and times of a file: where one differs, its bytes may.
Identity = tuple[int, int, int, int]


def identity(path: Path) -> Identity:
    """What differs once a file is written, replaced or exchanged. Raises OSError."""
    facts = path.stat()
    return facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns


class GuardedFile:
    """A file whose bytes have a known SHA-256; it is read again only where it may have changed."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self._sha256 = path, sha256
        self._verified: Identity | None = None

    def changed(self) -> bool:
        """Whether its bytes are not, or no longer, those of the checksum. Raises OSError."""
        now = identity(self.path)
        if now != self._verified:
            if sha256_of(self.path) != self._sha256:
                return True
            self._verified = now
        return False

    def check(self) -> bool:
        """Whether it is the file of the last check; False: replaced by one of equal bytes.

        Raises MdtError where its bytes are others.
        """
        before = self._verified
        try:
            if not self.changed():
                return before in (None, self._verified)
        except OSError as error:
            raise unreadable_file(self.path, error) from error
        if before is None:
            raise damaged(self.path, "its checksum does not match the manifest")
        raise MdtError(
            f"the cache changed while it was read: {self.path} has other bytes than at the start",
            "put the file back and run the same command again; another cache needs a new folder "
            "for what is made with it",
        )


def damaged(path: Path, why: str) -> MdtError:
    """The error for a file of a cache that is not what its manifest says."""
    return MdtError(f"the cache is damaged: {path}: {why}", AGAIN)


def unreadable_file(path: Path, error: OSError) -> MdtError:
    """The error for a file of a cache that is gone or cannot be read."""
    return damaged(path, error.strerror or str(error))


def first_changed(files: Iterable[GuardedFile]) -> Path | None:
    """The first of the files that does not have its checksum; eight threads read them all.

    Raises MdtError for one that cannot be read.
    """
    files = list(files)

    def changed(file: GuardedFile) -> bool:
        try:
            return file.changed()
        except OSError as error:
            raise unreadable_file(file.path, error) from error

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(changed, files))
    return next((file.path for file, bad in zip(files, found, strict=True) if bad), None)
