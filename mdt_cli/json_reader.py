"""The one reader of JSON: files, headers and lines that anyone may have written.

Refused are documents beyond a size, nested deeper than `MAX_DEPTH`, with whole numbers of more than
`MAX_DIGITS` digits, or in another encoding than UTF-8. docs/limits.md lists the limits.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.text import decode_text, read_limited

MAX_DEPTH, MAX_DIGITS = 100, 20
# Bytes of one document, and of one that lists every image of a set.
MAX_BYTES, MAX_LISTING_BYTES = 64 << 20, 4 << 30
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON document. ValueError says what is wrong with it."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _too_deep(data):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(
            text if isinstance(text, str) else decode_text(data), parse_int=_whole_number
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The value in a JSON file of at most `limit` bytes. ValueError for its content; OSError."""
    return parse_json(read_limited(path, limit))


def read_json_object(path: Path, hint: str | None = None, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. MdtError with `hint` where the file holds none."""
    try:
        found = read_json(path, limit)
    except OSError as error:
        raise MdtError(f"{path} cannot be read: {error.strerror or error}", hint) from error
    except ValueError as error:
        raise MdtError(f"{path} cannot be read: {error}", hint) from error
    if not isinstance(found, dict):
        raise MdtError(f"{path} holds no JSON object", hint)
    return found


@dataclass
class JsonLines:
    """The records of a log: objects whose `step`, where they have one, is a whole number.

    `skipped` counts the other lines, once read: a log is appended to while it is read and while its
    process is killed, so a line may be cut short.
    """

    path: Path
    skipped: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, record in self.with_text():
            yield record

    def with_text(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line with its object. OSError where the file cannot be read."""
        self.skipped = 0
        with self.path.open("rb") as file:
            while line := file.readline(MAX_BYTES):
                if not line.strip():
                    continue
                try:
                    record = parse_json(line)
                    text = line.decode("utf-8").strip()
                except ValueError:
                    record, text = None, ""
                if isinstance(record, dict) and type(record.get("step", 0)) is int:
                    yield text, record
                else:
                    self.skipped += 1


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"it has a whole number of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _too_deep(data: bytes) -> bool:
    """Whether brackets nest too deep; found without recursion, at the speed of copying."""
    return _deep(data) and _deep(_STRING.sub(b"", data))


def _deep(data: bytes) -> bool:
    brackets = data.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            # What is left never closes; the parser would enter each of them.
            return inner.count(b"[") > MAX_DEPTH
        brackets = inner
    return bool(brackets)
