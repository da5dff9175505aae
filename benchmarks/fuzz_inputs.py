"""Inputs for `fuzz.py`: files of every format that is read, and changes that keep their structure.

A flipped byte dies at the first checksum. Half of the inputs are therefore changed inside, with the
checksums, lengths and offsets around the change written again.
"""

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

WORDS: tuple[Any, ...] = (
    *(None, True, [], {}, "", "x", -1, 0, 1, 2**31, 2**63, 10**19, 1e308, 1e999, -0.0),
    *([[]], {"a": None}, "../x", "\x1b[31m", "\ud800", "0-99999999999", "pixels", [0] * 9),
)
NUMBERS = (0, 1, 2, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled or moved, without regard to what they mean."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 16, 256))
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[place : place + size]
            case 2:
                changed[place:place] = changed[place : place + size]
            case 3:
                changed[place : place + size] = rng.randbytes(size)
            case 4:
                word = rng.choice(NUMBERS).to_bytes(4, rng.choice(("little", "big")))
                changed[place : place + 4] = word
            case _:
                del changed[place:]
        if not changed:
            break
    return bytes(changed)


def changed_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place of it removed, exchanged or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], changed_value(value[index], rng), *value[index + 1 :]]
    if rng.random() < 0.1:
        depth = rng.choice((2, 90, 5000))
        return json.loads("[" * min(depth, 900) + "]" * min(depth, 900))
    return rng.choice(WORDS)


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """JSON of another shape."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = changed_value(value, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def changed_lines(data: bytes, rng: random.Random) -> bytes:
    """JSON lines, some of another shape, some cut."""
    lines = data.splitlines()
    for _ in range(rng.choice((1, 3, 10))):
        index = rng.randrange(len(lines))
        try:
            lines[index] = changed_json(lines[index], rng)
        except ValueError:
            lines[index] = flipped(lines[index], rng)
    return b"\n".join(lines)


def changed_toml(data: bytes, rng: random.Random) -> bytes:
    """TOML with other values, keys and tables."""
    lines = data.decode().splitlines()
    values = ("1", "-1", "1e999", '"x"', "[[[]]]", "{a.b = 1}", "nan", "1" * 99, "0xffff", "true")
    for _ in range(rng.choice((1, 2, 5))):
        index = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines[index] = lines[index].partition("=")[0] + "= " + rng.choice(values)
            case 1:
                lines[index] = ".".join(["a"] * rng.choice((2, 40))) + " = 1"
            case 2:
                lines[index] = f"[{rng.choice(('model', 'x', 'model.depth', '[data]'))}]"
            case 3:
                lines[index] = "a = " + rng.choice("[{") * rng.choice((3, 500))
            case _:
                lines.insert(index, rng.choice(lines))
    return "\n".join(lines).encode()


def changed_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Another header before the same tensors."""
    length = int.from_bytes(data[:8], "little")
    header = changed_json(data[8 : 8 + length], rng)
    size = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return size.to_bytes(8, "little") + header + data[8 + length :]


def changed_zip(inner: Callable[[bytes, random.Random], bytes]) -> Callable[..., bytes]:
    """A zip packed again after `inner` changed a member: checksums are right."""

    def change(data: bytes, rng: random.Random) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w") as target:
            members = source.infolist()
            chosen = rng.choice(members).filename
            for member in members:
                content = source.read(member)
                if member.filename == chosen:
                    content = (inner if rng.random() < 0.7 else flipped)(content, rng)
                method = member.compress_type if rng.random() < 0.9 else zipfile.ZIP_DEFLATED
                name = member.filename if rng.random() < 0.95 else rng.choice(("../x", " ", "a"))
                target.writestr(name, content, method)
        packed = bytearray(made.getvalue())
        if rng.random() < 0.4:
            # A size or an offset of the directory.
            place = packed.rfind(b"PK\x01\x02") + rng.choice((8, 10, 20, 24, 28, 42))
            packed[place : place + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
        return bytes(packed)

    return change


def changed_tar(data: bytes, rng: random.Random) -> bytes:
    """Another field in a header of 512 bytes, with its checksum."""
    changed = bytearray(data)
    block = 512 * rng.randrange(len(data) // 512)
    at, size = rng.choice(
        ((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    )
    words = (
        b"77777777777",
        b"-1",
        b"\xff" * 12,
        b"\x80" + bytes(11),
        b"x",
        b"L",
        b"x\0",
        b"5",
        b"g",
    )
    word = rng.choice((*words, rng.randbytes(size)))[:size]
    changed[block + at : block + at + size] = word.ljust(size, b"\0")
    changed[block + 148 : block + 156] = b" " * 8
    total = sum(changed[block : block + 512])
    changed[block + 148 : block + 156] = f"{total:06o}\0 ".encode()
    return bytes(changed)


def changed_png(data: bytes, rng: random.Random) -> bytes:
    """A chunk changed, doubled or added, with its CRC."""
    place, chunks = 8, []
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    index = rng.randrange(len(chunks))
    kind, body = chunks[index]
    match rng.randrange(4):
        case 0 if kind == b"IDAT":
            chunks[index] = (kind, zlib.compress(flipped(zlib.decompress(body), rng)))
        case 1:
            other = rng.choice(
                (b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"fdAT", b"gAMA")
            )
            chunks.insert(index, (other, zlib.compress(rng.randbytes(30)) + body[:30]))
        case _:
            chunks[index] = (kind, flipped(body, rng) if body else rng.randbytes(4))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def changed_fields(data: bytes, rng: random.Random) -> bytes:
    """Sizes and offsets of formats without checksums, which lie near the beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        width = rng.choice((1, 2, 4))
        place = rng.randrange(min(len(changed), rng.choice((64, 256, len(changed)))))
        number = rng.choice(NUMBERS) & (256**width - 1)
        changed[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
    return bytes(changed)


def changed_png_or_json(data: bytes, rng: random.Random) -> bytes:
    """An image or a list of labels."""
    return changed_json(data, rng) if data[:1] == b"{" else changed_png(data, rng)


def changed_table(data: bytes, rng: random.Random) -> bytes:
    """A table of text with other separators, quotes and cells."""
    text = data.decode()
    for _ in range(rng.choice((1, 2, 5))):
        old = rng.choice((",", "\n", "label", "cat", "file_name", "a/", "0"))
        new = rng.choice(
            ('"', "\t", ";", "", "\0", "\r", "\u2028", "x" * 200_000, ",,", "7", "\ufeff")
        )
        text = text.replace(old, new, rng.choice((1, -1)))
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")), "replace")


def changed_npy(data: bytes, rng: random.Random) -> bytes:
    """Another header of an array, of the right length."""
    if data[:6] != b"\x93NUMPY":
        return flipped(data, rng)
    size = int.from_bytes(data[8:10], "little")
    shape = tuple(
        rng.choice((0, 1, 2, 3, 8, -1, 10**9, 10**18, 2**63)) for _ in range(rng.randrange(5))
    )
    descr = rng.choice(("|u1", "<f8", "|O", "<U9", "|V99999999", "x", "<c16", "<i8", "|b1"))
    text = repr({"descr": descr, "fortran_order": rng.random() < 0.2, "shape": shape}).encode()
    if rng.random() < 0.2:
        text = flipped(text, rng)
    return data[:8] + struct.pack("<H", len(text) & 65535) + text + data[10 + size :]


def changed_pickle(data: bytes, rng: random.Random) -> bytes:
    """The pickle of a checkpoint, with other instructions or other numbers."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(len(changed))
        match rng.randrange(3):
            case 0:
                changed[place] = rng.choice(b"(.0NKMJ\x8a]})tbRcq\x85\x86\x87QPGX\x88\x89l\x81\x93")
            case 1:
                changed[place : place + 1] = b"J" + rng.choice(NUMBERS).to_bytes(4, "little")
            case _:
                other = pickle.dumps(rng.choice((bytearray(9), [1] * 50, 10**50, "x" * 50)), 2)
                changed[place:place] = other[2:-1]
    return bytes(changed)
