"""Which column of a table names the files, and which one their classes."""

from collections.abc import Callable, Sequence

from mdt_cli.errors import MdtError
from mdt_cli.images.files import as_text, is_image
from mdt_cli.images.reading import Reading
from mdt_cli.images.tables import Table

# In lower case; the first that is there is taken.
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image_file",
    "file_path",
    "filepath",
    "image_path",
    "path",
    "image_name",
    "image_id",
    "imageid",
    "image",
    "img",
    "id_code",
    "id",
    "name",
)
LABEL_COLUMNS = (
    "cls",
    "label",
    "labels",
    "class",
    "class_label",
    "class_id",
    "class_idx",
    "class_index",
    "label_id",
    "label_idx",
    "label_index",
    "category",
    "category_id",
    "target",
    "y",
    "class_name",
    "label_name",
    "category_name",
)
# Columns that describe an image without putting it into a class.
OTHER_COLUMNS = frozenset(
    [
        "text",
        "caption",
        "captions",
        "prompt",
        "description",
        "url",
        "width",
        "height",
        "sha256",
        "md5",
        "id",
        "key",
        "split",
        "index",
        "license",
        "source",
        "size",
        "path",
        "status",
        "original_width",
        "original_height",
        "exif",
        "similarity",
        "hash",
        "__key__",
        "__url__",
    ]
)
LOOKED_AT = 1000


def label_column(names: Sequence[str], reading: Reading, where: str) -> str | None:
    """The column of classes among `names`: the one asked for, a usual name, or the only one left.

    None where there are only captions and the like. Raises MdtError where it is not clear.
    """
    if reading.label_column is not None:
        return asked_column(reading.label_column, "--label-column", names, where)
    lower = {name.lower(): name for name in reversed(names)}
    usual = next((lower[name] for name in LABEL_COLUMNS if name in lower), None)
    if usual is not None:
        return usual
    left = [name for name in names if name.lower() not in OTHER_COLUMNS]
    if len(left) > 1:
        raise MdtError(
            f"{where} leaves open which column holds the class: {_listed(left)}",
            f"name it, such as --label-column '{as_text(left[0])}', or ignore all labels "
            "(encode-latents --unconditional)",
        )
    return left[0] if left else None


def labelled_rows(
    table: Table, names_image: Callable[[str], bool], reading: Reading, example: str
) -> tuple[list[tuple[str, object]], str] | None:
    """(name and class of each row, the name of the column of classes).

    None where the table has no column of classes. Raises MdtError where no column names an image
    (`example` is one), or it is not clear which column holds the class.
    """
    file = _file_column(table, names_image, reading, example)
    others = [name for name in table.columns if name != file]
    label = label_column(others, reading, table.where)
    if label is None:
        return None
    names = [str(cell) for cell in table.column(file)]
    return list(zip(names, table.column(label), strict=True)), label


def _file_column(
    table: Table, names_image: Callable[[str], bool], reading: Reading, example: str
) -> str:
    if reading.file_column is not None:
        return asked_column(reading.file_column, "--file-column", table.columns, table.where)

    def fitness(name: str) -> tuple[int, int, int]:
        cells = [str(cell) for cell in table.column(name)[:LOOKED_AT]]
        hits = sum(names_image(cell) for cell in cells)
        usual = -FILE_COLUMNS.index(name.lower()) if name.lower() in FILE_COLUMNS else -99
        return (sum(map(is_image, cells)), hits, usual)

    best = max(table.columns, key=fitness)
    if not fitness(best)[1]:
        row = ", ".join(str(cell)[:40] for cell in table.rows[0][:4]) if table.rows else "none"
        raise MdtError(
            f"no column of {table.where} names an image of the set: its first row is "
            f"{as_text(row)}, and the first image {as_text(example)}",
            "name the column with --file-column, or give the list of these images",
        )
    return best


def asked_column(name: str, option: str, names: Sequence[str], where: str) -> str:
    """The column that an option names, or numbers from 1. MdtError where there is none."""
    if name in names:
        return name
    if name.isascii() and name.isdigit() and 1 <= int(name) <= len(names):
        return names[int(name) - 1]
    raise MdtError(f"{where} has no column {name} ({option})", f"its columns are {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(as_text(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
