"""What a cache records of the images that it was made from: their SHA-256, and quick marks.

The hashes are part of the cache: the manifest names their file and its SHA-256. The marks (sizes
and times of files) are not, since they differ from one copy of the same images to the next.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdt_cli.files import atomic_path, write_json
from mdt_cli.json_reader import MAX_LISTING_BYTES, read_json

# As `sha256sum` writes it; an image whose bytes could not be read has no line.
CONTENTS, MARKS = "contents.sha256", "seen.json"
# The rule by which a cache records contents, in its plan under `source`; version 0.1 had none.
SHA256 = "sha256"

_ESCAPED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def contents_text(names: Iterable[str], digests: Iterable[str]) -> bytes:
    """The file of contents for these images, in their order."""
    lines = []
    for name, digest in zip(names, digests, strict=True):
        if not digest:
            continue
        escaped = "".join(_ESCAPED.get(character, character) for character in name)
        lines.append(f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def contents_facts(text: bytes) -> dict[str, str]:
    """What the manifest records of the file of contents."""
    return {"file": CONTENTS, "sha256": hashlib.sha256(text).hexdigest()}


def write_contents(folder: Path, text: bytes) -> None:
    """Write the file of contents."""
    with atomic_path(folder / CONTENTS) as temporary:
        temporary.write_bytes(text)


def read_contents(folder: Path, manifest: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Name and SHA-256 of each image; None where the file is not the one of the manifest."""
    try:
        data = (folder / CONTENTS).read_bytes()
    except OSError:
        return None
    if contents_facts(data) != manifest.get("contents"):
        return None
    found = []
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        digest, _, name = line.removeprefix("\\").partition("  ")
        if line.startswith("\\"):
            parts = name.split("\\\\")
            parts = [part.replace("\\n", "\n").replace("\\r", "\r") for part in parts]
            name = "\\".join(parts)
        found.append((name, digest))
    return found


def aligned(names: Sequence[str], contents: Sequence[tuple[str, str]]) -> list[str]:
    """The SHA-256 of each of `names`, "" for those that have none; both are in the same order."""
    found, next_one = [], 0
    for name in names:
        match = next_one < len(contents) and contents[next_one][0] == name
        found.append(contents[next_one][1] if match else "")
        next_one += match
    return found


def read_marks(folder: Path) -> dict[str, str]:
    """Marks of the source files when they were last read; none where the file is unusable."""
    try:
        files = read_json(folder / MARKS, MAX_LISTING_BYTES)["files"]
        return {str(name): str(mark) for name, mark in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def write_marks(folder: Path, marks: Mapping[str, str]) -> None:
    """Write the marks, unless they are there already."""
    marks = dict(sorted(marks.items()))
    if marks != read_marks(folder) or not (folder / MARKS).is_file():
        write_json(folder / MARKS, {"format": "mdt-seen", "version": 1, "files": marks})
