"""Hugging Face data set folders: parquet files with a column of images and one of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import PARQUET_FAULTS, ParquetReader
from mdt_cli.images.columns import asked_column, label_column
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.parquet_splits import one_split, partition
from mdt_cli.images.reading import AmbiguousSetError, Reading
from mdt_cli.images.shards import check_complete
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
    if path.is_dir():
        check_complete([file.relative_to(root).as_posix() for file in paths], root, reading)
    found: list[Found] = []
    values: list[object] = []
    names: Sequence[str] | None = None
    image, fault = "", None
    for number, file in enumerate(paths):
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                schema, features = table.schema_arrow, stored_features(table.schema_arrow)
                images = image_columns(schema, features, file)
                column = chosen_image_column(images, file, reading)
                if number and column != image:
                    raise MdtError(
                        f"{file} keeps its images in {column}, the others in {image}",
                        "give one data set",
                    )
                image = column
                rows = _rows(table.metadata, number, file, root)
                found.extend(rows)
                try:
                    label = chosen_label_column(schema, features, images, file, reading)
                except MdtError as error:
                    fault = fault or error
                    continue
                part = partition(file.relative_to(root).as_posix())
                partitioned = label is None and part is not None and not reading.by_first_rules
                if partitioned and part and label_column(part[:1], reading, str(path)):
                    values.extend([part[1]] * len(rows))
                if label is not None:
                    values.extend(table.read(columns=[label]).column(0).to_pylist())
                    named = features.get(label, {}).get("names") or None
                    if number and named != names and not reading.by_first_rules:
                        fault = fault or MdtError(
                            f"{file} names its classes otherwise than {paths[0]} does",
                            "give files of one data set, or pass --unconditional",
                        )
                    names = named or names
        except PARQUET_FAULTS as error:
            raise MdtError(f"cannot read {file}: {error}", "download it again") from error
    if not found:
        raise MdtError(f"{root} holds no images: its parquet files have no rows")

    def classes() -> labels.Classes:
        if fault is not None:
            raise fault
        if len(values) != len(found):
            raise MdtError(
                f"only some of the parquet files of {path} have labels", "pass --unconditional"
            )
        return labels.from_values(values, names, str(path), reading)

    reader = ParquetReader(tuple(paths), image)
    return make_set(path, "parquet", reader, found, classes if values or fault else None, {}, notes)


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


def image_columns(schema: Any, features: dict[str, dict[str, Any]], path: Path) -> list[str]:
    """The columns that hold images, by their kind or their name. MdtError where there is none."""
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
    return list(dict.fromkeys(images))


def chosen_image_column(images: Sequence[str], path: Path, reading: Reading) -> str:
    """The column of images that is read. AmbiguousSetError where there are several."""
    if reading.file_column is not None:
        return asked_column(reading.file_column, "--file-column", images, str(path))
    if len(images) > 1 and not reading.by_first_rules:
        raise AmbiguousSetError(
            f"{path} has several columns of images: {', '.join(images)}",
            f"name the one to read: --file-column {images[0]}",
        )
    return images[0]


def chosen_label_column(
    schema: Any,
    features: dict[str, dict[str, Any]],
    images: Sequence[str],
    path: Path,
    reading: Reading,
) -> str | None:
    """The column of classes, or None. MdtError where it is not clear which it is."""
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    classes.sort(key=lambda name: name != "label")
    classes += [name for name in LABEL_COLUMNS if name in schema.names]
    if reading.by_first_rules or (reading.label_column is None and classes):
        return next(iter(classes), None)
    others = [name for name in schema.names if name not in images and not name.startswith("__")]
    return label_column(others, reading, str(path))
