"""Classes that files of a set list: `dataset.json`, `metadata.csv`, `--labels FILE`, file names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.beside import Beside, at_suffix
from mdt_cli.images.columns import labelled_rows
from mdt_cli.images.files import as_text, is_hidden, is_image, suffix
from mdt_cli.images.image_set import Found
from mdt_cli.images.labels import Classes, from_values
from mdt_cli.images.match import match_values, plain
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.reading import Reading
from mdt_cli.images.tables import MAX_TABLE_BYTES, read_table
from mdt_cli.json_reader import parse_json
from mdt_cli.text import read_limited

EDM_LABELS = "dataset.json"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv", "metadata.parquet")
UNCONDITIONAL = "ignore all labels (encode-latents --unconditional)"


@dataclass(frozen=True)
class Listing:
    """What a container lists: all files, the images among them, and how a file is loaded.

    `notes` grows while classes are found.
    """

    path: Path
    found: Sequence[Found]
    images: Sequence[Found]
    load: Callable[[Found], bytes]
    notes: list[str] = field(default_factory=list)

    def read(self, item: Found) -> bytes:
        """The bytes of a file of the set. Raises MdtError where it cannot be read."""
        try:
            return self.load(item)
        except (OSError, ValueError, UnreadableError) as error:
            raise MdtError(
                f"{self.path}/{as_text(item.name)} cannot be read: {error}",
                f"copy it again, or {UNCONDITIONAL}",
            ) from error

    def head(self, item: Found, size: int) -> bytes:
        """The first bytes of a file of the set. Raises MdtError where it cannot be read."""
        file = self.path / item.name
        try:
            if file.is_file():
                with file.open("rb") as opened:
                    return opened.read(size)
        except OSError as error:
            raise MdtError(f"{file} cannot be read: {error.strerror}") from error
        return self.read(item)[:size]

    def names_image(self) -> Callable[[str], bool]:
        """Whether a text names an image here: by its file name, with or without suffix."""
        known: set[str] = set()
        for item in self.images:
            file = plain(item.name).rpartition("/")[2].lower()
            known |= {file, file[: -len(suffix(file))].lstrip("0") or "0"}

        def names(text: str) -> bool:
            file = plain(text).rpartition("/")[2].lower()
            stem = file[: -len(suffix(file))] if is_image(file) else file
            return bool(file) and (file in known or (stem.lstrip("0") or "0") in known)

        return names


def listed_classes(listing: Listing, reading: Reading) -> Classes | None:
    """Classes by the user's options, else by the lists in the set; None where there are none.

    Raises MdtError for a list that is not understood or does not fit, with names of both sides.
    """
    if reading.labels is not None:
        return _by_file(listing, reading.labels, reading)
    if reading.label_before is not None:
        return _by_names(listing, reading)
    return _by_sources(listing, reading)


def _by_file(listing: Listing, file: Path, reading: Reading) -> Classes:
    try:
        data = read_limited(file, MAX_TABLE_BYTES)
    except OSError as error:
        raise MdtError(
            f"--labels {file} cannot be read: {error.strerror}", "name a list of files and classes"
        ) from error
    except ValueError as error:
        raise MdtError(f"--labels {file} cannot be read: {error}") from error
    names_image = listing.names_image()
    table = read_table(data, str(file), names_image)
    rows = labelled_rows(table, names_image, reading, listing.images[0].name)
    if rows is None:
        raise MdtError(
            f"{file} has no column of classes: {', '.join(table.columns)}",
            "name one with --label-column",
        )
    return _classes(listing, rows[0], str(file), rows[1], reading)


def _by_names(listing: Listing, reading: Reading) -> Classes:
    separator = reading.label_before or ""
    values: list[object] = []
    without: list[str] = []
    for item in listing.images:
        stem = at_suffix(item.name.rpartition("/")[2])[0]
        parts = stem.rpartition(separator) if reading.last else stem.partition(separator)
        values.append(as_text(parts[0]))
        if not parts[1] or not parts[0]:
            without.append(item.name)
    if without:
        raise MdtError(
            f"{len(without)} of {len(values)} images of {listing.path} have no class before "
            f'"{separator}" in their names: {", ".join(map(as_text, without[:3]))}',
            "give the separator that all names have",
        )
    return from_values(values, None, str(listing.path), reading)


def _by_sources(listing: Listing, reading: Reading) -> Classes | None:
    sources: dict[str, Found] = {}
    for item in listing.found:
        folder, _, file = item.name.rpartition("/")
        if file not in (EDM_LABELS, *METADATA) or is_hidden(item.name):
            continue
        if not any(_below(image.name, folder) for image in listing.images):
            continue
        if folder in sources:
            raise MdtError(
                f"{listing.path} lists its classes twice: in {as_text(sources[folder].name)} and "
                f"{as_text(item.name)}",
                f"choose one with --labels, or {UNCONDITIONAL}",
            )
        sources[folder] = item
    if not sources:
        return None
    # Of nested sources the innermost labels an image.
    values: dict[str, object] = {}
    unlabelled = False
    for folder in sorted(sources, key=len, reverse=True):
        inside = [i for i in listing.images if _below(i.name, folder) and i.name not in values]
        if not inside:
            continue
        labels = _by_source(listing, sources[folder], folder, inside, reading)
        if labels is None:
            unlabelled |= sources[folder].name.endswith(EDM_LABELS)
            continue
        values |= zip((item.name for item in inside), labels, strict=True)
    if not values:
        return ([0] * len(listing.images), ()) if unlabelled else None
    where = ", ".join(as_text(source.name) for source in sources.values())
    missing = [item.name for item in listing.images if item.name not in values]
    if missing:
        raise MdtError(
            f"{listing.path}/{where} has labels for {len(values)} of {len(listing.images)} images",
            f"images without a label: {', '.join(map(as_text, missing[:3]))}; label all of them, "
            f"choose with --only, or {UNCONDITIONAL}",
        )
    ordered = [values[item.name] for item in listing.images]
    return from_values(ordered, None, f"{listing.path}/{where}", reading)


def _by_source(
    listing: Listing, source: Found, folder: str, images: Sequence[Found], reading: Reading
) -> list[object] | None:
    """A class for each of `images`, which lie below `folder`; None where the source has none."""
    where = f"{listing.path}/{as_text(source.name)}"
    data = listing.read(source)
    names = [item.name[len(folder) + 1 if folder else 0 :] for item in images]
    if source.name.rpartition("/")[2] == EDM_LABELS:
        rows = edm_rows(data, where)
        if rows is None:
            listing.notes.append(f"{where} has no labels (null)")
            return None
        return match_values(names, rows, where, listing.notes)
    names_image = Listing(listing.path, (), images, listing.load).names_image()
    table = read_table(data, where, names_image)
    found = labelled_rows(table, names_image, reading, images[0].name)
    if found is None:
        listing.notes.append(
            f"{where} has no column of classes ({', '.join(table.columns)}); --label-column names "
            "one"
        )
        return None
    listing.notes.append(f"classes are those of {where}, column {as_text(found[1])}")
    return match_values(names, found[0], where, listing.notes)


def _below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def edm_rows(data: bytes, where: str) -> list[tuple[str, object]] | None:
    """Name and label of each entry of a `dataset.json`; None for `"labels": null`. MdtError."""
    expected = 'expected {"labels": [["00000/img00000000.png", 0], ...]} or {"labels": null}'
    try:
        found = parse_json(data)
    except ValueError as error:
        raise MdtError(f"{where} is not what EDM2 writes: {error}", expected) from error
    if not isinstance(found, Mapping) or "labels" not in found:
        keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else "no object"
        raise MdtError(
            f"{where} is not what EDM2 writes: it has no labels ({keys})",
            f"{expected}; or pass --labels, or {UNCONDITIONAL}",
        )
    labels = found["labels"]
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return [(str(name), label) for name, label in labels.items()]
    if not isinstance(labels, list) or not all(
        isinstance(row, list) and len(row) == 2 for row in labels
    ):
        raise MdtError(f"{where} is not what EDM2 writes: its labels are no pairs", expected)
    return [(str(name), label) for name, label in labels]


def _classes(
    listing: Listing,
    rows: Sequence[tuple[str, object]],
    where: str,
    column: str,
    reading: Reading,
) -> Classes:
    names = [item.name for item in listing.images]
    values = match_values(names, rows, where, listing.notes)
    listing.notes.append(f"classes are those of {where}, column {as_text(column)}")
    return from_values(values, None, where, reading)


def sidecars(listing: Listing, reading: Reading) -> Beside:
    """The label files beside the images of a folder or zip, loaded."""
    beside = Beside(reading, str(listing.path), at_suffix)
    known = {at_suffix(item.name)[0] for item in listing.images}
    for item in listing.found:
        if is_image(item.name) or is_hidden(item.name) or at_suffix(item.name)[0] not in known:
            continue
        if beside.wants(item.name, 0):
            data = listing.read(item)
            if beside.wants(item.name, len(data)):
                beside.add(item.name, data)
    return beside
