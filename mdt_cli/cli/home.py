"""`~` in the words of a command line, where the shell leaves it as it is."""

import re
from collections.abc import Sequence
from pathlib import Path

# At the start of a word, of the value of an option, or of a key, quoted as TOML or not.
_HOME = re.compile(r"""((?:--?[\w-]+=)?(?:[\w.-]+=)?["']?)(~[\w.-]*)((?:/.*)?)""", re.DOTALL)


def with_home(words: Sequence[str]) -> list[str]:
    """The words with `~` and `~/path` as the home folder, `~name/path` as that of a user.

    A shell does so for a word by itself, but not in `--out=~/x`, `--set key=~/x` or within quotes.
    """
    return [_expanded(word) for word in words]


def _folder(home: str) -> str:
    """The home folder; the word itself for a user that this machine does not know."""
    try:
        return str(Path(home).expanduser())
    except RuntimeError:
        return home


def _expanded(word: str) -> str:
    found = _HOME.fullmatch(word)
    if found is None:
        return word
    before, home, path = found.groups()
    quote = before[-1:] if before[-1:] in ("'", '"') else ""
    # A word such as ~draft names no path.
    if home != "~" and not path.startswith("/"):
        return word
    end = quote if path.endswith(quote) else ""
    return before + _folder(home) + path.removesuffix(end) + end
