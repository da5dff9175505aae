"""The rule by which an encoded image becomes pixels, as manifests and reports record it."""

import re
from dataclasses import dataclass

from mdt_cli.errors import MdtError

FULL_WHITE = 65535
_FIRST = "upright (EXIF), alpha over white, halved by box, bicubic, centre square"
_NOW = (
    "upright (EXIF), ICC profiles to sRGB, alpha over white, halved by box, bicubic, centre square"
)
_WHITE = re.compile(r"(.*), 16 bits from 0\.\.(\d{1,5})")


@dataclass(frozen=True)
class PixelRule:
    """Whether colour profiles are applied, and the value of 16-bit grey that becomes white."""

    profiles: bool = True
    white: int = FULL_WHITE

    @property
    def text(self) -> str:
        """The rule in words, which name it in manifests and reports."""
        words = _NOW if self.profiles else _FIRST
        return words if self.white == FULL_WHITE else f"{words}, 16 bits from 0..{self.white}"


# Version 0.1 ignored colour profiles; what it began is finished so.
FIRST_RULE, RULE = PixelRule(profiles=False), PixelRule()


def known_rule(recorded: object) -> PixelRule:
    """The rule that a plan or a manifest records. MdtError for one that is not known."""
    words, white = str(recorded), FULL_WHITE
    found = _WHITE.fullmatch(words)
    if found is not None:
        words, white = found[1], int(found[2])
    for rule in (FIRST_RULE, RULE):
        if words == rule.text:
            return PixelRule(rule.profiles, white)
    raise MdtError(
        f'the cache was made by the rule "{recorded}", which this version does not know',
        "use the version of mdt that made the cache, or choose a new folder",
    )
