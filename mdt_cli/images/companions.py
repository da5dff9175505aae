"""Images that lie beside the images of a set and are none of them: masks, thumbnails, copies."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.images.files import as_text, suffix
from mdt_cli.images.reading import AmbiguousSetError, Reading

# Folders of such images, and those that are so only beside a folder of the images themselves.
FOLDERS = {"masks", "thumbnails", "thumbs", "segmentations", "annotations", "groundtruth"}
BESIDE_IMAGES = {"mask", "labels", "label", "gt", "seg", "segmentation", "depth", "thumb", "edges"}
IMAGES = {"images", "image", "imgs", "img", "jpegimages", "originals", "photos", "rgb", "color"}
# `0001_mask.png` beside `0001.jpg`.
PARTNER = re.compile(
    r"(.+?)[-_. ](mask|seg|segmentation|thumb|thumbnail|depth|gt|groundtruth|matte|trimap)s?",
    re.IGNORECASE,
)
ENDS_AS_PARTNER = re.compile(r"[a-z]\Z", re.IGNORECASE)
# Folders of one size each, and of 1,000 numbered images each.
SIZE = re.compile(
    r"(?:[0-9]+x[0-9]+|16|28|32|48|64|96|128|192|224|256|299|384|512|768|1024|2048)(?:px|p)?"
)
NUMBERED = re.compile(r"([0-9]{5,6})/(?:img)?([0-9]{6,8})\.[A-Za-z]+")
# More endings than these are names with dots, not kinds of images.
FEW_KINDS = 8


def check_samples(names: Sequence[str], labelled: bool, path: Path, reading: Reading) -> None:
    """AmbiguousSetError where samples of a WebDataset (one path up to a dot) hold several images.

    Not `labelled` and with names that have many endings, the dots are part of the names.
    """
    if reading.only or reading.by_first_rules:
        return
    parts = [_sample(name) for name in names]
    if len({key for key, _ in parts}) == len(parts):
        return
    kinds = Counter(kind for _, kind in parts)
    if len(kinds) > FEW_KINDS and not labelled:
        return
    if len(kinds) > FEW_KINDS or len(kinds) == 1:
        key = next(key for key, count in Counter(key for key, _ in parts).items() if count > 1)
        first = [as_text(name) for name in names if _sample(name)[0] == key][:3]
        raise AmbiguousSetError(
            f"{path}: {', '.join(first)} are one sample of a WebDataset, whose files are joined by "
            "their names up to the first dot",
            f"write names without dots, or read only some: {reading.only_option} '{first[0]}'",
        )
    raise _several(path, "samples", kinds, reading)


def check_companions(names: Sequence[str], path: Path, reading: Reading) -> None:
    """AmbiguousSetError where masks, thumbnails or copies lie beside the images or their folders.

    Patterns of the user decide: with any, nothing is checked.
    """
    if reading.only or reading.by_first_rules:
        return
    _check_folders(names, path, reading)
    stems: dict[str, str] = {}
    copied = set()
    for name in names:
        stem, _, ending = name.rpartition(".")
        if stems.setdefault(stem, ending) != ending:
            copied.add(stem)
    if len(copied) * 2 >= len(stems):
        raise _several(path, "names", Counter(suffix(name) for name in names), reading)
    words: dict[str, str] = {}
    for stem in stems:
        folder, _, file = stem.rpartition("/")
        found = PARTNER.fullmatch(file) if ENDS_AS_PARTNER.search(file) else None
        if found and (f"{folder}/{found[1]}" if folder else found[1]) in stems:
            words.setdefault(file[len(found[1]) :], stem)
    if words:
        ending, example = next(iter(words.items()))
        partner = example.removesuffix(ending)
        raise AmbiguousSetError(
            f"{path}: {as_text(example)} lies beside {as_text(partner)}, and seems to be no image "
            "of the set",
            f"leave such files out: {reading.only_option} '!*{ending}.*'; "
            f"keep all: {reading.only_option} '*'",
        )


def _check_folders(names: Sequence[str], path: Path, reading: Reading) -> None:
    _check_sizes(names, path, reading)
    counts = Counter(name.rpartition("/")[0] for name in names)
    parts = {part.lower() for folder in counts for part in folder.split("/")}
    # `thumbnails128x128` counts as `thumbnails`.
    wrong = {part for part in parts if re.sub(r"[^a-z].*", "", part) in FOLDERS}
    wrong |= parts & BESIDE_IMAGES if parts & IMAGES else set()
    others = [f for f in counts if {part.lower() for part in f.split("/")} & wrong]
    if not others or len(others) == len(counts):
        return
    listed = sorted({part for f in others for part in f.split("/") if part.lower() in wrong})
    left_out = " ".join(
        f"{reading.only_option} '!{as_text(part)}/*' {reading.only_option} '!*/{as_text(part)}/*'"
        for part in listed
    )
    number = sum(counts[folder] for folder in others)
    raise AmbiguousSetError(
        f"{path} holds {number} of its {len(names)} images in folders named {', '.join(listed)}, "
        "which seem to be no images of the set",
        f"leave them out: {left_out}; keep all: {reading.only_option} '*'",
    )


def _check_sizes(names: Sequence[str], path: Path, reading: Reading) -> None:
    """AmbiguousSetError where all folders are named by sizes and hold images of the same names."""
    inner: dict[str, set[str]] = {}
    for name in names:
        top, _, rest = name.partition("/")
        inner.setdefault(top, set()).add(rest)
    if len(inner) < 2 or not all(SIZE.fullmatch(top) for top in inner):
        return
    first, *others = inner.values()
    if all(held == first for held in others):
        largest = max(inner, key=lambda top: int(re.findall(r"[0-9]+", top)[0]))
        raise AmbiguousSetError(
            f"{path} holds the same {len(first)} images in folders of several sizes: "
            f"{', '.join(sorted(inner, key=reading.key))}",
            f"choose one: {reading.only_option} '{largest}/*'; if they are classes: "
            f"{reading.only_option} '*'",
        )


def check_numbered_folders(names: Sequence[str], path: Path, reading: Reading) -> None:
    """MdtError where folders are those in which EDM numbers its images, 1,000 in each: no classes.

    `00000/img00000000.png` of its data sets, `000000/000123.png` of its samples.
    """
    if reading.only or reading.by_first_rules:
        return
    found = [NUMBERED.fullmatch(name) for name in names]
    if all(part is not None and int(part[2]) // 1000 == int(part[1]) for part in found):
        raise MdtError(
            f"{path} has no labels: its folders ({names[0].partition('/')[0]}, ...) hold 1,000 "
            "numbered images each and are no classes",
            "pass --labels with a list of files and classes, ignore all labels (encode-latents "
            f"--unconditional), or take the folders as classes: {reading.only_option} '*'",
        )


def _sample(name: str) -> tuple[str, str]:
    """(path up to the first dot of the file name, the rest)."""
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}", f".{ending.lower()}"


def _several(path: Path, what: str, kinds: Counter[str], reading: Reading) -> AmbiguousSetError:
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    chosen = min(kinds, key=lambda kind: (kind.count("."), kind))
    others = [kind for kind in sorted(kinds) if kind != chosen]
    if any(kind.endswith(chosen) for kind in others):
        wanted = " ".join(f"{reading.only_option} '!*{kind}'" for kind in others)
    else:
        wanted = f"{reading.only_option} '*{chosen}'"
    return AmbiguousSetError(
        f"{path}: {what} have several images each: {listed}",
        f"choose which are read, such as {wanted}; all of them: {reading.only_option} '*'",
    )
