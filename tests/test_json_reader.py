"""JSON that anyone may have written: a value, or a ValueError that says why not."""

import json
import os
import resource
import time
from pathlib import Path

import pytest

from mdt_cli.errors import MdtError
from mdt_cli.json_reader import MAX_DEPTH, JsonLines, parse_json, read_json, read_json_object


def nested(depth: int) -> str:
    return '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2)


@pytest.mark.parametrize("value", [None, 1, -1.5, "a[{", [], {"a": [1, {"b": "}"}]}, 2**64])
def test_what_json_writes_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


def test_the_deepest_document_that_is_read() -> None:
    assert parse_json(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    # Brackets in strings are no nesting, however many.
    text = json.dumps({"names": ["[" * 5000, '"{' * 5000, "\\" * 99]})
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested(MAX_DEPTH + 2), "nested deeper than 100"),
        (nested(100_000), "nested deeper than 100"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 100_000, "nested deeper than 100"),
        ('["[",' + "[" * 100_000, "nested deeper than 100"),
        ("1" * 21, "21 digits"),
        ('{"step": -' + "9" * 4500 + "}", "4500 digits"),
        ('{"a": [1, 2', "not valid JSON"),
        ("", "not valid JSON"),
        ("[}", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ('{"a": "\n"}', "not valid JSON"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=reason):
            parse_json(form)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"a": "é"}'.encode("latin-1"), "not UTF-8: byte 0xe9 at offset 7"),
        ("{}".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("{}".encode("utf-16-le"), "UTF-16; save it as UTF-8"),
        ("{}".encode("utf-32"), "UTF-32; save it as UTF-8"),
        (bytes(100), "binary"),
    ],
)
def test_encodings_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(data)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_json('\ufeff{"a": "é"}'.encode()) == {"a": "é"}


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == read_json_object(file) == {"a": 1}
    with pytest.raises(ValueError, match="larger than 0 MiB"):
        read_json(file, limit=7)
    file.write_text("[1]")
    with pytest.raises(MdtError, match=r"a\.json holds no JSON object\n  do this"):
        read_json_object(file, "do this")
    with pytest.raises(MdtError, match=r"missing\.json cannot be read: No such file"):
        read_json_object(tmp_path / "missing.json")
    with pytest.raises(MdtError, match="Is a directory"):
        read_json_object(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(MdtError, match="a pipe or a device"):
        read_json_object(tmp_path / "pipe.json")


def test_lines_that_are_no_objects_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    faulty = [b"[1]", b"7", b"\xff\xfe", b"{", b'{"a":' * 100_000, b'{"b": ' + b"1" * 99 + b"}"]
    file.write_bytes(b"\n".join([b'{"step": 1}', *faulty, b"", b'{"step": 2}', b'{"step": 3']))
    lines = JsonLines(file)
    assert list(lines) == [{"step": 1}, {"step": 2}]
    assert lines.skipped == len(faulty) + 1
    assert [text for text, _ in lines.with_text()] == ['{"step": 1}', '{"step": 2}']


def test_depth_costs_little_beside_parsing() -> None:
    """A list of 300,000 images."""
    rows = [[f"{k:08d}.png", k % 1000] for k in range(300_000)]
    text = json.dumps({"labels": rows}).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    json.loads(text)
    between = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    started = time.perf_counter()
    assert parse_json(text)["labels"] == rows
    after = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert after - between < 4 * (between - before) + 0.5, time.perf_counter() - started
