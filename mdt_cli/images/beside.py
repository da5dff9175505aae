"""Labels in files of their own beside each image: `.cls`, `.json` and the like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mdt_cli.errors import MdtError
from mdt_cli.images.columns import LABEL_COLUMNS, OTHER_COLUMNS, label_column
from mdt_cli.images.files import as_text, suffix
from mdt_cli.images.labels import WHOLE
from mdt_cli.images.reading import Reading
from mdt_cli.json_reader import parse_json
from mdt_cli.text import decode_text

# A label file is a number or a line of JSON; anything longer is not read.
MAX_LABEL_BYTES = 1 << 20
FIRST_KEYS = ("label", "cls", "class_label", "class")
# Texts that are labels only if they are asked for, and the longest that is looked at.
TEXT, MAX_TEXT_BYTES = "txt", 200


def at_first_dot(name: str) -> tuple[str, str]:
    """What joins an image and its label in a tar: the path up to the first dot; and the rest."""
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}", ending.lower()


def at_suffix(name: str) -> tuple[str, str]:
    """What joins an image and its label in a folder: the path without suffix; and the suffix."""
    ending = suffix(name)
    return name[: len(name) - len(ending)], ending.lstrip(".")


@dataclass
class Beside:
    """The label files of a set as they are listed; then a value for each image."""

    reading: Reading
    where: str
    split: Callable[[str], tuple[str, str]] = at_first_dot
    samples: dict[str, dict[str, object]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fault: MdtError | None = None

    def wants(self, name: str, size: int) -> bool:
        """Whether the file of this name and size in bytes is to be passed to `add`."""
        ending = self.split(name)[1]
        if self.reading.by_first_rules:
            return name.endswith((".cls", ".json")) and size <= MAX_LABEL_BYTES
        if not self._is_label(ending):
            return ending == TEXT and size <= MAX_TEXT_BYTES
        if size > MAX_LABEL_BYTES:
            self.fault = MdtError(
                f"{self.where}: the label file {as_text(name)} is larger than "
                f"{MAX_LABEL_BYTES >> 20} MiB",
                "a label is a number, a name, or an object of JSON",
            )
            return False
        return True

    def _is_label(self, ending: str) -> bool:
        return _kind(ending) in ("json", *LABEL_COLUMNS) or ending == self.reading.label_column

    def add(self, name: str, data: bytes) -> None:
        """One label file; what is wrong with it is kept for `values`."""
        key, ending = self.split(name)
        if self.reading.by_first_rules:
            self._add_by_first_rules(name, key, data)
            return
        try:
            entry: object = (
                parse_json(data) if _kind(ending) == "json" else decode_text(data).strip()
            )
        except ValueError as error:
            self.fault = MdtError(
                f"{self.where}: the label file {as_text(name)} cannot be read: {error}",
                "repair it, or ignore all labels (encode-latents --unconditional)",
            )
            return
        sample = self.samples.setdefault(key, {})
        found = entry if isinstance(entry, dict) else {_kind(ending): entry}
        for column, value in found.items():
            if column.lower() in OTHER_COLUMNS and column != self.reading.label_column:
                self.others[column] = None
                continue
            self.columns[column] = None
            sample[column] = value

    def _add_by_first_rules(self, name: str, key: str, data: bytes) -> None:
        label: object = data.decode("utf-8", "replace").strip()
        if not name.endswith(".cls"):
            try:
                entry = parse_json(data)
            except ValueError:
                return
            if not isinstance(entry, dict):
                return
            label = next((entry[column] for column in FIRST_KEYS if column in entry), None)
        if label is not None:
            self.samples[key] = {"cls": label}
            self.columns["cls"] = None

    def values(self, names: Sequence[str]) -> list[object] | None:
        """The label of each image; None where no file holds labels.

        Raises MdtError for a file that cannot be read, and where it is not clear what is a label.
        """
        if self.fault is not None:
            raise self.fault
        columns = [column for column in self.columns if column != TEXT]
        if not columns and (self.reading.label_column is None or not self.columns):
            self._check_texts()
            if self.others:
                self.notes.append(
                    f"{self.where}: the label files hold {', '.join(self.others)}, which are no "
                    "classes; --label-column names one"
                )
            return None
        usual = [name for name in LABEL_COLUMNS if name in {c.lower() for c in columns}]
        if self.reading.label_column is not None or not usual:
            chosen = label_column(list(self.columns), self.reading, self.where)
            usual = [] if chosen is None else [chosen.lower()]
        rest = [as_text(column) for column in columns if column.lower() not in usual[:1]]
        if rest and usual and not self.reading.by_first_rules:
            self.notes.append(f"{self.where}: the classes are {usual[0]}, before {', '.join(rest)}")
        values = [self._value(self.samples.get(self.split(name)[0], {}), usual) for name in names]
        return values if usual else None

    def _value(self, sample: dict[str, object], columns: Sequence[str]) -> object:
        lower = {column.lower(): value for column, value in sample.items()}
        return next((lower[column] for column in columns if column in lower), None)

    def _check_texts(self) -> None:
        texts = [sample[TEXT] for sample in self.samples.values() if TEXT in sample]
        if texts and all(WHOLE.fullmatch(str(text)) for text in texts):
            raise MdtError(
                f"{self.where}: the .{TEXT} files beside the images hold numbers, such as "
                f"{texts[0]}",
                f"if they are classes: --label-column {TEXT}; or ignore all labels "
                "(encode-latents --unconditional)",
            )


def _kind(ending: str) -> str:
    """`cls` of `cls`, of `cls.txt` and of `001.cls`; else the ending as it is."""
    parts = ending.split(".")
    named = (part for part in parts if part in LABEL_COLUMNS)
    return "json" if parts[-1] == "json" else next(named, ending)
