"""Lists of files and their classes: CSV, TSV, JSON, JSON lines, and columns of text."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mdt_cli.errors import MdtError
from mdt_cli.images.files import is_image, suffix
from mdt_cli.json_reader import parse_json
from mdt_cli.text import decode_text

# Bytes of one list: a hundred million rows.
MAX_TABLE_BYTES = 1 << 32
SEPARATORS = "\t,;|"


@dataclass(frozen=True)
class Table:
    """Rows of cells under the names of their columns: `1`, `2`, ... where the file has none."""

    where: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]

    def column(self, name: str) -> list[object]:
        """The cells of one column, from top to bottom."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def read_table(data: bytes, where: str, names_image: Callable[[str], bool]) -> Table:
    """The table in the bytes of a file. Raises MdtError for what is no table.

    `names_image` says whether a cell names an image; a first line with such a cell is no header.
    """
    try:
        match suffix(where):
            case ".json":
                return _from_json(parse_json(data), where)
            case ".jsonl" | ".ndjson":
                lines = [line for line in data.splitlines() if line.strip()]
                return _from_records([parse_json(line) for line in lines], where)
            case ".parquet":
                return _from_parquet(data, where)
            case _:
                rows = _cells(decode_text(data))
                return _with_header(rows, where, names_image)
    except (ValueError, csv.Error) as error:
        raise MdtError(
            f"{where} cannot be read as a list of files and classes: {error}",
            "CSV, TSV, JSON, JSON lines and columns of text are read",
        ) from error


def _from_parquet(data: bytes, where: str) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MdtError(
            f"reading {where} needs pyarrow, which is not installed",
            'pip install "mdt-cli[parquet]"',
        ) from error
    try:
        found = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    columns = [column.to_pylist() for column in found.columns]
    return Table(where, tuple(found.column_names), list(zip(*columns, strict=True)))


def _cells(text: str) -> list[list[str]]:
    # Not splitlines, which also cuts at rarer characters that captions hold.
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    # CelebA's lists begin with the number of rows; a header may follow.
    if lines[0].strip() in (str(len(lines) - 1), str(len(lines) - 2)) and len(lines) > 1:
        lines = lines[1:]
    separator = next((s for s in SEPARATORS if all(s in line for line in lines[:2])), None)
    if separator is not None:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
        return [row for row in rows if any(row)]
    rows = [line.split() for line in lines]
    widths = {len(row) for row in rows[1:]}
    if len(widths) > 1:
        # Names with spaces: the last word is the class.
        rows = [[part.strip() for part in line.strip().rsplit(None, 1)] for line in lines]
    return rows


def _with_header(rows: list[list[str]], where: str, names_image: Callable[[str], bool]) -> Table:
    first, width = rows[0], max(len(row) for row in rows[1:] or rows)
    if any(names_image(cell) or is_image(cell) for cell in first) or len(rows) == 1:
        columns = tuple(str(k + 1) for k in range(len(first)))
    else:
        columns, rows = tuple(first), rows[1:]
        if len(columns) == width - 1:
            columns = ("file", *columns)
    columns = tuple(name or f"column {k + 1}" for k, name in enumerate(columns))
    if len(set(columns)) < len(columns):
        raise ValueError("two of its columns have one name")
    for number, row in enumerate(rows, 1):
        if len(row) > len(columns):
            raise ValueError(f"row {number} has {len(row)} columns, the first has {len(columns)}")
    empty = [""] * len(columns)
    return Table(where, columns, [tuple((row + empty)[: len(columns)]) for row in rows])


def _from_json(found: object, where: str) -> Table:
    if isinstance(found, dict) and "labels" in found:
        found = found["labels"]
    if isinstance(found, list):
        return _from_records(found, where)
    if not isinstance(found, dict) or not found:
        raise ValueError("it lists no files")
    if all(isinstance(value, dict) for value in found.values()):
        records = [{"file": name, **value} for name, value in found.items()]
        return _from_records(records, where)
    if all(_are_texts(value) for value in found.values()):
        pairs = [(name, label) for label, names in found.items() for name in names]
        return Table(where, ("file", "class"), list[tuple[object, ...]](pairs))
    if any(isinstance(value, dict) for value in found.values()) or _holds_records(found.values()):
        raise ValueError(f"it is an object of {', '.join(list(found)[:6])}, not of files")
    return Table(where, ("file", "class"), list(found.items()))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _holds_records(values: Iterable[object]) -> bool:
    return any(
        isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
        for value in values
    )


def _from_records(records: Sequence[object], where: str) -> Table:
    if not records:
        raise ValueError("it is empty")
    if all(isinstance(record, list) for record in records):
        rows = [tuple(record) for record in records if isinstance(record, list)]
        if {len(row) for row in rows} != {2}:
            raise ValueError("its rows are not pairs of a file and a class")
        return Table(where, ("file", "class"), rows)
    objects = [record for record in records if isinstance(record, Mapping)]
    if len(objects) < len(records):
        raise ValueError("its rows are neither objects nor pairs of a file and a class")
    columns = tuple(dict.fromkeys(str(key) for record in objects for key in record))
    return Table(where, columns, [tuple(o.get(name) for name in columns) for o in objects])
