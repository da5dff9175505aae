"""Hugging Face data set folders: parquet files with a column of images and one of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import ParquetReader
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.parquet_splits import one_split
from mdt_cli.images.reading import Reading
from mdt_cli.json_reader import parse_json

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")


def from_parquet(paths: Sequence[Path], root: Path, path: Path, reading: Reading) -> ImageSet:
    """The rows of all files, listed for `path`; row 5 of `a.parquet` is `a.parquet/00000005`.

    Of several splits `train` is taken, and a note names the others. Raises MdtError for files
    without an image column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MdtError(
            "reading parquet needs pyarrow, which is not installed",
            'pip install "mdt-cli[parquet]"',
        ) from error
    paths = sorted(paths, key=lambda file: reading.key(file.relative_to(root).as_posix()))
    paths, notes = one_split(paths, root, reading)
    found: list[Found] = []
    values: list[object] = []
    names: Sequence[str] | None = None
    image = ""
    for number, file in enumerate(paths):
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                schema, features = table.schema_arrow, stored_features(table.schema_arrow)
                columns = image_and_label_columns(schema, features, file)
                if number and columns[0] != image:
                    raise MdtError(
                        f"{file} keeps its images in {columns[0]}, the others in {image}",
                        "give one data set",
                    )
                image, label = columns
                found.extend(_rows(table.metadata, number, file, root))
                if label is not None:
                    values.extend(table.read(columns=[label]).column(0).to_pylist())
                    names = features.get(label, {}).get("names") or names
        except (pyarrow.ArrowException, OSError) as error:
            raise MdtError(f"cannot read {file}: {error}", "download it again") from error
    if not found:
        raise MdtError(f"{root} holds no images: its parquet files have no rows")

    def classes() -> labels.Classes:
        if len(values) != len(found):
            raise MdtError(
                f"only some of the parquet files of {root} have labels", "pass --unconditional"
            )
        return labels.from_values(values, names, str(root), reading)

    reader = ParquetReader(tuple(paths), image)
    return make_set(path, "parquet", reader, found, classes if values else None, {}, notes)


def _rows(metadata: Any, number: int, path: Path, root: Path) -> list[Found]:
    name, size = path.relative_to(root).as_posix(), path.stat().st_size
    rows: list[Found] = []
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            location = (number, group, row)
            rows.append(Found(f"{name}/{len(rows):08d}", location, str(size)))
    return rows


def stored_features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the `datasets` library wrote about the columns, {} where it wrote nothing."""
    try:
        stored = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)}


def image_and_label_columns(
    schema: Any, features: dict[str, dict[str, Any]], path: Path
) -> tuple[str, str | None]:
    """(image column, label column or None)."""
    import pyarrow

    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    for field in schema:
        kind = field.type
        has_bytes = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        binary = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
        if has_bytes or (binary and field.name in IMAGE_COLUMNS):
            images.append(field.name)
    if not images:
        raise MdtError(
            f"{path} has no image column (columns: {', '.join(schema.names)})",
            "expected a struct with bytes, as the `datasets` library writes it",
        )
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    classes.sort(key=lambda name: name != "label")
    classes += [name for name in LABEL_COLUMNS if name in schema.names]
    return images[0], next(iter(classes), None)
