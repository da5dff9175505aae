"""What services tell while they work: frozen facts; only the command line draws them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A sentence the person should read."""

    text: str


@dataclass(frozen=True)
class Warned:
    """A sentence the person should not miss."""

    text: str


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units, those kept from an earlier run included."""

    done: int
    total: int
    note: str = ""


Event = object
