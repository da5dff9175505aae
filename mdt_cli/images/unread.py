"""Labels that lie beside images without classes and were not asked for: named, not passed over."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from mdt_cli.errors import MdtError
from mdt_cli.images.beside import at_suffix
from mdt_cli.images.files import as_text, is_hidden, is_image, suffix
from mdt_cli.images.labels import WHOLE
from mdt_cli.images.listed import EDM_LABELS, METADATA, UNCONDITIONAL, Listing

# Files beside images that may list classes, and how much of each is searched for their names.
LISTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".lst")
# Files of other programs, which are labels if their names say so.
UNREAD = (".npy", ".mat", ".pkl", ".pickle", ".pt", ".pth", ".h5", ".hdf5", ".xlsx", ".xls", ".xml")
SEARCHED_FILES, SEARCHED_BYTES = 50, 1 << 20


def check_unread_lists(listing: Listing) -> None:
    """MdtError where a file beside images without classes names some of them."""
    names_image = listing.names_image()
    known = {item.name.rpartition(".")[0] for item in listing.images}
    candidates = [
        item
        for item in listing.found
        if suffix(item.name) in LISTS
        and not is_hidden(item.name)
        and item.name.rpartition("/")[2] not in (EDM_LABELS, *METADATA)
        and item.name.rpartition(".")[0] not in known
    ]
    for item in listing.found:
        file = item.name.rpartition("/")[2].lower()
        if suffix(file) in UNREAD and any(word in file for word in ("label", "class", "target")):
            raise MdtError(
                f"{listing.path} has no classes in folders, and {as_text(item.name)}, which seems "
                "to hold some, cannot be read",
                f"write a CSV of files and classes and pass it with --labels; or {UNCONDITIONAL}",
            )
    for item in candidates[:SEARCHED_FILES]:
        text = listing.head(item, SEARCHED_BYTES).decode("utf-8", "replace")
        words = dict.fromkeys(re.split(r"""[\s,;|"'\[\]{}:]+""", text))
        named = [word for word in words if _is_a_name(word) and names_image(word)]
        named = named or _numbered_rows(item.name, text, len(listing.images), names_image)
        if named:
            raise MdtError(
                f"{listing.path} has no classes in folders, but {as_text(item.name)} names its "
                f"images ({', '.join(as_text(word) for word in named[:3])})",
                f"use it: --labels {as_text(str(listing.path / item.name))}; or {UNCONDITIONAL}"
                if listing.path.is_dir()
                else f"unpack it and pass it with --labels; or {UNCONDITIONAL}",
            )
        lines = text.split()
        if len(lines) == len(listing.images) > 1 and all(WHOLE.fullmatch(line) for line in lines):
            raise MdtError(
                f"{listing.path} has no classes in folders, but {as_text(item.name)} has a number "
                "for each image and no names",
                "write a CSV of files and classes and pass it with --labels; or " + UNCONDITIONAL,
            )


def _numbered_rows(
    name: str, text: str, count: int, names_image: Callable[[str], bool]
) -> list[str]:
    """The first cells of a table, where nearly all its rows begin with the number of an image."""
    if suffix(name) not in (".csv", ".tsv"):
        return []
    lines = [re.split(r"[,;\t]", line) for line in text.splitlines()[1:] if line.strip()]
    cells = [line[0].strip(" \"'") for line in lines if len(line) > 1]
    found = list(dict.fromkeys(cell for cell in cells if names_image(cell)))
    enough = len(found) >= max(2, 0.8 * len(cells)) and 2 * len(found) >= min(count, 1000)
    return found if enough else []


def class_in_names(names: Sequence[str]) -> str | None:
    """A remark where file names are a few words, each with a number after one separator."""
    for separator in "._-":
        heads = Counter[str]()
        for name in names:
            head, _, number = at_suffix(name.rpartition("/")[2])[0].rpartition(separator)
            if not number.isdigit() or not re.search("[A-Za-z]", head):
                break
            heads[head] += 1
        else:
            if 2 <= len(heads) <= len(names) // 2:
                listed = ", ".join(as_text(head) for head in list(heads)[:4])
                return (
                    f"no classes, but the names begin with {listed}"
                    f"{', ...' if len(heads) > 4 else ''}: "
                    f"--label-before-last '{separator}' takes that as the class"
                )
    return None


def _is_a_name(word: str) -> bool:
    """Short numbers are everywhere; what has a suffix or some length is a name."""
    return is_image(word) or (len(word) > 5 and any(c.isdigit() for c in word))
