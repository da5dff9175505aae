"""Text of files that anyone may have written: how much of it is read, and in which encoding."""

import codecs
import difflib
import stat
from collections.abc import Iterable
from pathlib import Path

# Encodings that editors and shells write besides UTF-8, by the bytes such a file starts with.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. ValueError for a pipe or device, and beyond `limit` bytes."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise ValueError("it is a pipe or a device, not a file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit >> 20:,} MiB, the most that is read of one")
    return data


def decode_text(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. ValueError names another encoding."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise ValueError(f"it is encoded as {name}; save it as UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in text[:4]:
        raise ValueError("it is binary or encoded as UTF-16; save it as UTF-8")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not UTF-8: byte 0x{text[error.start]:02x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def shortened(text: str, length: int = 200) -> str:
    """`text`, cut to about `length` characters where it is longer: a message stays readable."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def nearest(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `given` most likely means, in any case; None where none is near."""
    by_lower: dict[str, str] = {}
    for name in known:
        by_lower.setdefault(name.lower(), name)
    near = difflib.get_close_matches(given.strip().lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None
