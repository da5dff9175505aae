"""Messages, help, docstrings and pages are plain technical English: these phrases are not."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "mdt_cli").rglob("*.py"))
PAGES = [
    *sorted((ROOT / "presets").rglob("*.toml")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]
# Phrase -> what to write. Single good words are not forbidden, only what has to be read twice.
PHRASES = {
    r"\bgo(es|ne)? on\b|\bgoing on\b|\bwent on\b": "resume, continue",
    r"\bat hand\b": "found, available",
    r"\banew\b|\bafresh\b": "again, re-encoded, reset",
    r"\b(is|are|was|were|be) told\b(?! apart)": "reported, recorded, given",
    r"\bnothing that mdt\b": "cannot recognise X",
    r"\b(does|do) not say\b": "does not record, does not store",
    r"\bat (its|their) word\b": "assuming",
    r"\bdealt (out|to)\b|\bdeals? out\b": "assigned, distributed",
    r"\bnames the class\b": "classifies",
    r"\bkeeps what is\b|\bwhat is whole\b": "keeps intact shards",
    r"\b(is|are|not a|was|and|or) whole\b|\bwhole (or|and) |\bcomes? whole\b": "intact, complete",
    r"\blearnt\b": "learned",
    r"\baveraged weights\b|\bwhich average\b|\bno average\b|\bonline or average\b": "EMA weights",
    r"\bdr(aw|aws|awn|ew) (images|pictures|samples|the images|what is missing)\b": "generate",
    r"\b(images|pictures|samples) (are |were |is |was )?drawn\b": "generated",
    r"\bfits? the memory\b": "fits in memory",
    r"\bholds nothing of\b": "is ignored",
    r"\bcame about\b|\bcomes about\b": "was written",
    r"\bwhat bears\b|\bbears? the (name|network)": "named, labelled",
    r"\bin (its|their|the) place of\b|\bin its place\b": "instead of",
    r"\bno place to\b|\bfree place\b|\banother place\b|\bwhatever place\b": "path, position",
    r"\bby more than its interval tells\b|\bthan the interval tells\b": "exceeds its interval",
    r"\bnobody can tell\b|\bcannot be told\b(?! apart)": "unknown, cannot be decided",
    r"\bodd pictures\b": "poor images",
}


def faults(text: str) -> list[str]:
    """The forbidden phrases in a text, each with what to write."""
    plain = " ".join(text.split())
    return [
        f"{found[0]!r} in {plain[max(0, found.start() - 50) : found.end() + 30]!r}: say {better}"
        for phrase, better in PHRASES.items()
        for found in re.finditer(phrase, plain, re.IGNORECASE)
    ]


def strings(source: str) -> list[str]:
    """Literals and docstrings; of f-strings the text with {} for each value."""
    tree = ast.parse(source)
    inner = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = node.values
            found.append(
                "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [] if id(node) in inner else [node.value]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_strings_of_the_code(path: Path) -> None:
    assert [f for text in strings(path.read_text("utf-8")) for f in faults(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_presets_and_pages(path: Path) -> None:
    text = re.sub(r"^# ?", "", path.read_text("utf-8"), flags=re.MULTILINE)
    assert faults(text) == []


def test_the_phrases_are_found_and_their_cures_are_not() -> None:
    for text in (
        "Folder of the run; made, or gone on with.",
        "run the same command again: it keeps what is\n    whole and makes the rest anew",
        "the Inception weights are not at hand",
        "X does not say which resizing made it; R is taken at its word",
        "no checkpoint of X is whole",
        "this network names the class of images",
    ):
        assert faults(text), text
    for text in (
        "Run folder. Created if missing; an existing run is resumed.",
        "intact shards are kept, the others are re-encoded",
        "the whole batch",
        "two scores that cannot be told apart",
    ):
        assert not faults(text), text
    source = 'f"{x} is not a " f"whole {y} file: {z:.2f}"\nprint("are at hand")\n'
    assert sum(bool(faults(text)) for text in strings(source)) == 2
