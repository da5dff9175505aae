"""Text of files that anyone may have written: how it is read, and how it is shown."""

import codecs
import difflib
import re
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

# What moves the cursor, hides text or turns its direction on a terminal and in a page.
_CONTROLS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]"
)
# A line of a message begins with two spaces; another line break is part of a name.
_BREAK = re.compile(r"\n(?!  )")
_MARKDOWN = re.compile(r"([\\`*\[\]|])")
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. ValueError for a pipe or device, and beyond `limit` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a pipe or a device, not a file")
    with path.open("rb") as file:
        # As many bytes are set aside as are asked for.
        data = file.read(min(limit, status.st_size) + 1)
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


def printable(text: str, one_line: bool = False) -> str:
    """`text` with control characters as JSON writes them: `\\u001b`; names of files have any.

    Line breaks stay, with `one_line` only those of a message.
    """
    shown = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return _BREAK.sub(r"\\n", shown) if one_line else shown


def markdown(text: str) -> str:
    """`text` as one line of a Markdown page that shows it as it is: no markup, no HTML."""
    line = printable(" ".join(text.split()))
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SURROGATES.sub("\ufffd", _MARKDOWN.sub(r"\\\1", escaped))


def fenced(language: str, text: str) -> str:
    """A block of code of a Markdown page; nothing in `text` ends it."""
    shown = _SURROGATES.sub("\ufffd", printable(text.strip()))
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def nearest(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `given` most likely means, in any case; None where none is near."""
    by_lower: dict[str, str] = {}
    for name in known:
        by_lower.setdefault(name.lower(), name)
    near = difflib.get_close_matches(given.strip().lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None
