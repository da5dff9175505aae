"""Hugging Face data sets as `datasets.save_to_disk` writes them: folders of arrow files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images import labels
from mdt_cli.images.archives import MAX_BYTES
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.layout import split_of
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.parquet import (
    chosen_image_column,
    chosen_label_column,
    image_columns,
    stored_features,
)
from mdt_cli.images.reading import AmbiguousSetError, Reading
from mdt_cli.json_reader import read_json_object

STATE, SPLITS = "state.json", "dataset_dict.json"


@dataclass
class ArrowReader:
    """Locations are (file, row); files are mapped, and one is kept open."""

    paths: tuple[Path, ...]
    column: str
    _held: tuple[int, Any] | None = field(default=None, repr=False)

    def read(self, location: tuple[int, int]) -> bytes:
        """The encoded image in that row of the image column."""
        file, row = location
        if self._held is None or self._held[0] != file:
            self._held = (file, _table(self.paths[file]).column(self.column))
        scalar = self._held[1][row]
        held = scalar["bytes"] if hasattr(scalar, "keys") and scalar.is_valid else scalar
        if not held.is_valid:
            raise UnreadableError("the row holds no image bytes")
        if len(held.as_buffer()) > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES} bytes")
        data = held.as_py()
        if not isinstance(data, bytes):
            raise UnreadableError("the row holds no image bytes")
        return data

    def files(self, locations: Sequence[tuple[int, int]]) -> set[Path]:
        """The arrow files that are read."""
        return {self.paths[file] for file, _ in locations}

    def close(self) -> None:
        """Close the file that is open."""
        self._held = None


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk`."""
    return (path / SPLITS).is_file() or ((path / STATE).is_file() and any(path.glob("*.arrow")))


def from_saved(path: Path, reading: Reading) -> ImageSet:
    """The rows of a saved data set, in its order; of several splits `train` is taken.

    Row 5 of `data-00000-of-00002.arrow` is `data-00000-of-00002.arrow[5]`.
    """
    folder, notes = _one_split(path, reading)
    files = _data_files(folder)
    found: list[Found] = []
    values: list[object] = []
    names: Sequence[str] | None = None
    image, fault = "", None
    for number, file in enumerate(files):
        table = _table(file)
        features = stored_features(table.schema)
        columns = image_columns(table.schema, features, file)
        column = chosen_image_column(columns, file, reading)
        if number and column != image:
            raise MdtError(f"{file} keeps its images in {column}, the others in {image}")
        image = column
        size = file.stat().st_size
        found += [Found(f"{file.name}[{k}]", (number, k), str(size)) for k in range(len(table))]
        try:
            label = chosen_label_column(table.schema, features, columns, file, reading)
        except MdtError as error:
            fault = fault or error
            continue
        if label is not None:
            values += table.column(label).to_pylist()
            names = features.get(label, {}).get("names") or names
    if not found:
        raise MdtError(f"{folder} holds no images: its arrow files have no rows")

    def classes() -> labels.Classes:
        if fault is not None:
            raise fault
        if len(values) != len(found):
            raise MdtError(f"only some of the files of {folder} have labels", "give one data set")
        return labels.from_values(values, names, str(folder), reading)

    reader = ArrowReader(tuple(files), image)
    return make_set(path, "arrow", reader, found, classes if values or fault else None, {}, notes)


def _one_split(path: Path, reading: Reading) -> tuple[Path, tuple[str, ...]]:
    if not (path / SPLITS).is_file():
        return path, ()
    splits = sorted(folder.name for folder in path.iterdir() if (folder / STATE).is_file())
    wanted = [name for name in splits if reading.wants(name)]
    training = [name for name in wanted if split_of(name) == "train"]
    chosen = wanted if len(wanted) == 1 else training
    if len(chosen) != 1:
        raise AmbiguousSetError(
            f"{path} holds several splits: {', '.join(splits) or 'none'}",
            f"give one of them: {path / splits[0]}" if splits else "save the data set again",
        )
    others = [name for name in splits if name != chosen[0]]
    left = f"{path} holds several splits: {', '.join(splits)}; {chosen[0]} is taken"
    return path / chosen[0], (left,) if others else ()


def _data_files(folder: Path) -> list[Path]:
    """The files that the state of the data set lists, in its order."""
    hint = "save the data set again with datasets.save_to_disk"
    state = read_json_object(folder / STATE, hint)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise MdtError(
            f"{folder} was saved with a mapping of its rows (after a shuffle or a filter)",
            "call .flatten_indices() on the data set before .save_to_disk()",
        )
    entries = state.get("_data_files")
    try:
        names = [str(entry["filename"]) for entry in entries or ()]
    except (TypeError, LookupError) as error:
        raise MdtError(f"{folder / STATE} lists no files", hint) from error
    files = [folder / name for name in names]
    missing = next((f for f in files if f.parent != folder or not f.is_file()), None)
    if not files or missing is not None:
        raise MdtError(f"{folder}: {missing or 'no arrow file'} is missing", hint)
    return files


def _table(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MdtError(
            "reading arrow files needs pyarrow, which is not installed",
            'pip install "mdt-cli[parquet]"',
        ) from error
    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise MdtError(f"cannot read {path}: {error}", "it is damaged: save it again") from error
