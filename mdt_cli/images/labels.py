"""The one rule for classes: from folders, or from a number or a name for each image."""

import math
import re
from collections.abc import Sequence

from mdt_cli.errors import MdtError
from mdt_cli.images.files import as_text
from mdt_cli.images.reading import EVERYTHING, Reading
from mdt_cli.text import shortened

# A class number this far above the number of images is a wrong column, not a class.
MAX_CLASSES = 1_000_000
# Class numbers of the images, and the names of the classes.
Classes = tuple[list[int], tuple[str, ...]]
# The splits that version 0.1 knew.
FIRST_SPLITS = {"train", "val", "valid", "validation", "test", "dev"}
WHOLE = re.compile(r"-?[0-9]{1,18}")
# Whole numbers as tables with gaps have them.
INTEGRAL = re.compile(r"-?[0-9]{1,18}[.]0+")


def from_folders(names: Sequence[str], where: str, reading: Reading) -> Classes:
    """Labels and class names: the first folder of each relative path; none for a flat folder."""
    tops = [as_text(name.partition("/")[0]) if "/" in name else "" for name in names]
    classes = tuple(sorted(set(tops), key=reading.key))
    if classes == ("",):
        return [0] * len(names), ()
    if "" in classes:
        loose = [name for name in names if "/" not in name]
        raise MdtError(
            f"{where} holds images both in class folders ({_some(classes[1:])}) and beside them "
            f"({_some(loose)})",
            "put every image into a class folder, or all into one flat folder, or leave out those "
            f"beside: {reading.only_option} " + (f"'!{loose[0]}'" if len(loose) == 1 else "'*/*'"),
        )
    if reading.by_first_rules and set(classes) <= FIRST_SPLITS and len(classes) > 1:
        raise MdtError(
            f"{where} holds splits ({', '.join(classes)}), not classes",
            f"encode one of them: {where}/{'train' if 'train' in classes else classes[0]}",
        )
    index = {name: number for number, name in enumerate(classes)}
    return [index[top] for top in tops], classes


def from_values(
    values: Sequence[object],
    names: Sequence[str] | None,
    where: str,
    reading: Reading = EVERYTHING,
) -> Classes:
    """Labels and class names from one value per image: class numbers, or class names.

    Numbers are kept as they are and named by `names` or themselves; a class no image has stays a
    class. Texts are sorted into numbers, and so are the -1 and 1 of an attribute. A list of one
    value is that value, and a list of zeros and a one the position of the one. Raises MdtError for
    what is no class.
    """
    if not reading.by_first_rules:
        values = [_value(value, where) for value in values]
        if {str(value) for value in values} == {"-1", "1"}:
            return [int(str(value) == "1") for value in values], ("-1", "1")
    missing = sum(value is None for value in values)
    if missing == len(values):
        return [0] * len(values), ()
    if missing:
        raise MdtError(
            f"{where} has labels for {len(values) - missing} of {len(values)} images",
            "label all of them or none, or pass --unconditional",
        )
    numbers = [_number(value) for value in values]
    if all(number is not None for number in numbers):
        labels = [number for number in numbers if number is not None]
        count = max(max(labels) + 1, len(names or ()))
        if min(labels) < 0 or count > MAX_CLASSES:
            raise MdtError(
                f"{where} has class numbers from {min(labels)} to {max(labels)}",
                "class numbers start at 0 and have no large gaps",
            )
        given = list(names or ())
        return labels, tuple(given + [str(k) for k in range(len(given), count)])
    texts = [str(value) for value in values]
    classes = tuple(sorted(set(texts), key=reading.key))
    index = {name: number for number, name in enumerate(classes)}
    return [index[text] for text in texts], classes


def other_number(classes: Sequence[str]) -> int | None:
    """The index of the first class whose name is a number, but not that index."""
    return next(
        (k for k, name in enumerate(classes) if WHOLE.fullmatch(name) and name != str(k)), None
    )


def _value(value: object, where: str) -> object:
    """A number, a text, or None for what is empty."""
    match value:
        case list() if len(value) == 1:
            return _value(value[0], where)
        case list() if value and value.count(1) == 1 and value.count(0) == len(value) - 1:
            return value.index(1)
        case [] | "" | None:
            return None
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return int(value)
        case float() | list() | dict():
            raise MdtError(
                f"{where} gives an image the label {shortened(str(value), 60)}, which is not one "
                "class",
                "give each image the number or the name of one class, or ignore all labels "
                "(encode-latents --unconditional)",
            )
        case str() if INTEGRAL.fullmatch(value.strip()):
            return int(value.partition(".")[0])
        case str():
            return value.strip() or None
        case _:
            return value


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and WHOLE.fullmatch(value):
        return int(value)
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
