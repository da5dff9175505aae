"""The names that a list gives to files, matched to the images of a set: all, or an error."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence

from mdt_cli.errors import MdtError
from mdt_cli.images.files import as_text, is_image, suffix

SHOWN = 3
# Folders at the beginning of a name that may be there on one side alone.
MOST_FOLDERS = 8

Key = Callable[[str], str]


def plain(name: str) -> str:
    """A path with single forward slashes, without `.` parts, in composed Unicode."""
    text = name if name.isascii() else unicodedata.normalize("NFC", name)
    if "\\" in text or "./" in text or "//" in text or text.startswith("/"):
        parts = text.replace("\\", "/").split("/")
        text = "/".join(part for part in parts if part not in ("", "."))
    return text.strip()


def match_values(
    images: Sequence[str], rows: Sequence[tuple[str, object]], where: str, notes: list[str]
) -> list[object]:
    """The value of each image. Raises MdtError with names of both sides where one has none.

    Names may differ in leading folders, slashes, case, suffix or leading zeros, if that gives one
    value for every image; what was used is noted, and so are entries that name no image.
    """
    here, there = [plain(name) for name in images], [plain(name) for name, _ in rows]
    best: tuple[int, Key, Key] | None = None
    for how, key, images_key in _keys(here, there):
        values = _values(there, rows, key)
        found = [images_key(name) for name in here]
        hits = sum(name in values for name in found)
        if hits == len(here) == len(set(found)):
            clash = next((name for name in found if values[name] is CLASH), None)
            if clash is not None:
                raise MdtError(
                    f"{where} gives {as_text(clash)} different classes",
                    "give each image one class",
                )
            _note_rest(there, set(found), key, where, how, notes)
            return [values[name] for name in found]
        if best is None or hits > best[0]:
            best = (hits, key, images_key)
    assert best is not None
    raise _mismatch(here, there, best, where)


CLASH = object()


def _values(
    there: Sequence[str], rows: Sequence[tuple[str, object]], key: Key
) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, (_, value) in zip(there, rows, strict=True):
        known = values.setdefault(key(name), value)
        if known != value:
            values[key(name)] = CLASH
    return values


def _keys(here: Sequence[str], there: Sequence[str]) -> Iterator[tuple[str, Key, Key]]:
    """(what differs, key of listed names, key of images), from the strictest to the loosest."""
    depth_here = min(name.count("/") for name in here)
    depth_there = min((name.count("/") for name in there), default=0)
    strips = [(0, 0)]
    strips += [(k, 0) for k in range(1, min(depth_there, MOST_FOLDERS) + 1)]
    strips += [(0, k) for k in range(1, min(depth_here, MOST_FOLDERS) + 1)]
    strips.append((-1, -1))
    for how, change in (
        ("", str),
        ("case", str.casefold),
        ("suffixes", _stem),
        ("leading zeros", lambda name: _stem(name.casefold()).lstrip("0") or "0"),
    ):
        for from_there, from_here in strips:
            yield how, _key(change, from_there), _key(change, from_here)


def _key(change: Key, folders: int) -> Key:
    if folders == 0:
        return change
    if folders < 0:
        return lambda name: change(name.rpartition("/")[2])
    return lambda name: change(name.split("/", folders)[-1])


def _stem(name: str) -> str:
    return name[: -len(suffix(name))] if is_image(name) else name


def _note_rest(
    there: Sequence[str], found: set[str], key: Key, where: str, how: str, notes: list[str]
) -> None:
    rest = [name for name in there if key(name) not in found]
    if how:
        notes.append(f"names in {where} are matched to those of the images without their {how}")
    if rest:
        notes.append(
            f"{len(rest)} of {len(there)} entries of {where} name no image here: {_some(rest)}"
        )


def _mismatch(
    here: Sequence[str], there: Sequence[str], best: tuple[int, Key, Key], where: str
) -> MdtError:
    hits, key, images_key = best
    listed, found = {key(name) for name in there}, {images_key(name) for name in here}
    without = [name for name in here if images_key(name) not in listed]
    rest = [name for name in there if key(name) not in found]
    if not without:
        twice = [name for name in here if sum(images_key(o) == images_key(name) for o in here) > 1]
        return MdtError(
            f"{where} leaves open which of the images {_some(twice)} it means",
            "list them with their folders",
        )
    hint = f"images without a label: {_some(without)}"
    if rest:
        hint += f"; entries without an image: {_some(rest)}"
    return MdtError(
        f"{where} has labels for {hits} of {len(here)} images",
        f"{hint}; label all of them or none, or ignore all labels (encode-latents --unconditional)",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(as_text(name) for name in names[:SHOWN]) + (
        ", ..." if len(names) > SHOWN else ""
    )
