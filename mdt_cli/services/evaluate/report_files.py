"""Where a report may be written: beside pictures, and never over anything but a report."""

import json
from collections.abc import Iterable
from pathlib import Path

from mdt_cli.errors import MdtError
from mdt_cli.files import check_writable
from mdt_cli.images.npz import keys
from mdt_cli.metrics.statistics import load_statistics

# How every page of a report begins to be one.
TITLE = "<title>mdt evaluate"


def check_places(report: Path, page: Path) -> None:
    """MdtError where one of the two cannot be written, or would replace what is no report."""
    for file, is_ours in ((report, _is_report), (page, _is_page)):
        check_writable(file)
        if file.is_file() and file.stat().st_size and not is_ours(file):
            raise MdtError(
                f"{file} is there already and is no report of mdt evaluate",
                "name another file with --out: the report is written there, and its page beside it",
            )


def check_statistics_place(file: Path, reference: Path, sets: Iterable[Path]) -> None:
    """The same for statistics of the reference."""
    if file.suffix.lower() != ".npz":
        raise MdtError(
            f"--save-reference {file}: statistics are kept in an npz", f"name it {file}.npz"
        )
    if file.resolve() == reference.resolve():
        raise MdtError(f"--save-reference {file} is the reference itself", "name another file")
    if file.resolve() in {given.resolve() for given in sets}:
        raise MdtError(f"--save-reference {file} holds the samples", "name another file")
    check_writable(file)
    if file.is_file() and not {"mu", "sigma"} <= keys(file):
        raise MdtError(
            f"--save-reference {file} is there already and holds no statistics", "name another file"
        )


def check_same_kind(file: Path, extractor: str, resize: str) -> None:
    """Statistics are only replaced by those of the same network and resizing."""
    if not file.is_file():
        return
    held = load_statistics(file)
    if (held.extractor, held.resize) != (extractor, resize):
        raise MdtError(
            f"--save-reference {file} holds statistics of {held.extractor or 'an unknown network'} "
            f"with {held.resize or 'unknown'} resizing, not of {extractor} with {resize}",
            "name another file, or remove it",
        )


def _is_report(file: Path) -> bool:
    try:
        held = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and bool({"metrics", "comparison"} & held.keys())


def _is_page(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as page:
        return TITLE in page.read(4096)
