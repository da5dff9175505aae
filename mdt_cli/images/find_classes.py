"""Where the classes of a set of files come from: options, lists, label files, folders, in order."""

from collections.abc import Callable, Sequence

from mdt_cli.errors import MdtError
from mdt_cli.images.beside import Beside
from mdt_cli.images.labels import Classes, from_values
from mdt_cli.images.layout import Folders
from mdt_cli.images.listed import (
    EDM_LABELS,
    Listing,
    edm_rows,
    listed_classes,
)
from mdt_cli.images.reading import Reading
from mdt_cli.images.unread import check_unread_lists, class_in_names


def find_classes(
    listing: Listing,
    reading: Reading,
    folders: Folders,
    notes: Sequence[str],
    beside: Callable[[], Beside],
    beside_first: bool = False,
) -> Classes:
    """Labels and class names; `notes` are those to add where folders are the classes.

    `beside_first`: label files beside the images go before folders. Raises AmbiguousSetError where
    it is not clear which images are meant, and MdtError for labels that are not understood.
    """
    if reading.by_first_rules:
        return _by_first_rules(listing, reading, folders, notes, beside, beside_first)
    folders.check_splits()
    found = listed_classes(listing, reading)
    if found is not None:
        return found
    if beside_first:
        found = _beside(listing, beside(), reading)
        if found is not None:
            return found
    classes = folders.classes()
    if len(classes[1]) < 2 and not beside_first:
        found = _beside(listing, beside(), reading)
        if found is not None:
            return found
    if reading.label_column is not None or reading.file_column is not None:
        raise MdtError(
            f"{listing.path} has no table of labels: --label-column and --file-column name its "
            "columns",
            "leave them out, or pass the table with --labels",
        )
    if len(classes[1]) < 2:
        check_unread_lists(listing)
        hint = class_in_names([item.name for item in listing.images])
        if hint is not None:
            listing.notes.append(hint)
    listing.notes.extend(notes)
    return classes


def _beside(listing: Listing, beside: Beside, reading: Reading) -> Classes | None:
    values = beside.values([item.name for item in listing.images])
    listing.notes.extend(beside.notes)
    return None if values is None else from_values(values, None, str(listing.path), reading)


def _by_first_rules(
    listing: Listing,
    reading: Reading,
    folders: Folders,
    notes: Sequence[str],
    beside: Callable[[], Beside],
    beside_first: bool,
) -> Classes:
    edm = next((item for item in listing.found if item.name == EDM_LABELS), None)
    if edm is not None and not beside_first:
        where = f"{listing.path}/{EDM_LABELS}"
        by_name = dict(edm_rows(listing.read(edm), where) or ())
        values = [by_name.get(item.name) for item in listing.images]
        return from_values(values, None, where, reading)
    if beside_first:
        found = _beside(listing, beside(), reading)
        if found is not None:
            return found
    listing.notes.extend(notes)
    return folders.classes()
