"""The options of a command that say how a set of images is read."""

from collections.abc import Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.reading import Reading

SAMPLES_ONLY = "--samples-only"


def reading_of(
    only: Sequence[str] | None,
    labels: Path | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    label_before: str | None = None,
    label_before_last: str | None = None,
    only_option: str = "--only",
) -> Reading:
    """By the newest rules of order, what options ask for. MdtError where two contradict."""
    given = {
        "--labels": labels,
        "--label-before": label_before,
        "--label-before-last": label_before_last,
    }
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise MdtError(
            f"{' and '.join(named)} both say where the classes are", f"leave out {named[-1]}"
        )
    for option in named[:1]:
        if given[option] == "":
            raise MdtError(f"{option} is empty", "give the text that ends the class in a name")
    if named[:1] and named[0] != "--labels" and (file_column or label_column):
        raise MdtError(
            f"{named[0]} reads the names of files, which have no columns",
            "leave out --file-column and --label-column",
        )
    return Reading(
        only=tuple(only or ()),
        only_option=only_option,
        labels=labels,
        file_column=file_column,
        label_column=label_column,
        label_before=label_before if label_before is not None else label_before_last,
        last=label_before_last is not None,
    )
