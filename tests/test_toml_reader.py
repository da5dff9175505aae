"""TOML that anyone may have written: tables, or a ValueError that says why not."""

import resource
from pathlib import Path

import pytest

from mdt_cli.cli.app import run as mdt
from mdt_cli.config.load import load_config
from mdt_cli.config.presets import names, read_preset
from mdt_cli.errors import MdtError
from mdt_cli.toml_reader import MAX_DEPTH, MAX_PARTS, parse_toml, read_toml


def dotted(parts: int) -> str:
    return ".".join(["a"] * parts)


def test_presets_are_read() -> None:
    for name in names():
        assert read_preset(name).keys or name


def test_the_longest_key_and_the_deepest_value_that_are_read() -> None:
    assert parse_toml(f"{dotted(MAX_PARTS - 1)} = 1")
    assert parse_toml(f"a = {'[' * (MAX_DEPTH - 1)}{']' * (MAX_DEPTH - 1)}")
    # Dots in strings and comments make no key.
    text = f'about = "{dotted(90)}"\n# see {dotted(9)}\nb = [{"1.5, " * 99}]\n"{dotted(99)}" = 1'
    assert len(parse_toml(text)) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{dotted(50_000)} = 1", "more than 32 parts"),
        (f"[{dotted(50_000)}]", "more than 32 parts"),
        (f"a = {{ {dotted(50_000)} = 1 }}", "more than 32 parts"),
        (" . ".join(["'a.b'", '"c"'] * 40) + " = 1", "more than 32 parts"),
        (f"[{dotted(30)}]\n{dotted(30)} = 1", "nested deeper than 32"),
        ("a = " + "[" * 100_000, "nested deeper than 32"),
        ("a = " + "[" * 100_000 + "]" * 100_000, "nested deeper than 32"),
        ("a = " + "{a=" * 100_000, "nested deeper than 32"),
        ("a = " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ("a = 1" + "0" * 30, "more than 20 digits"),
        ("a = [1, {b = 1" + "0" * 5000 + "}]", "more than 20 digits"),
        ("a = 0x" + "f" * 40, "more than 20 digits"),
        ("a =", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_refused(text: str, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=reason):
        parse_toml(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (f"{dotted(50_000)} = 1".encode(), "key of more than 32 parts"),
        (b"a = " + b"[" * 100_000, "nested deeper"),
        ("[model]\ndepth = 2".encode("utf-16"), "encoded as UTF-16; save it as UTF-8"),
        ("# é".encode("latin-1"), "not UTF-8: byte 0xe9"),
        (b"#" * (1 << 20) + b"#", "larger than 1 MiB"),
    ],
    ids=["dots", "nested", "utf-16", "latin-1", "large"],
)
def test_presets_and_configurations_that_are_refused(
    tmp_path: Path, data: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(data)
    with pytest.raises(MdtError, match=f"preset .*mine.toml cannot be read: .*{reason}"):
        read_preset(str(file))
    for words in (["inspect", str(file)], ["presets", str(file)]):
        assert mdt(words) == 1
        assert reason in " ".join(capsys.readouterr().err.split())
    (tmp_path / "run").mkdir()
    file.rename(tmp_path / "run" / "config.toml")
    assert mdt(["inspect", str(tmp_path / "run")]) in (0, 1)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes("\ufeff# Mine.\n[model]\ndepth = 2\n".encode())
    assert read_toml(file)[0] == {"model": {"depth": 2}}
    assert read_preset(str(file)).about == "Mine."
    assert load_config([str(file)], []).config.model.depth == 2


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        (f"{dotted(50_000)}=1", "at most 32 parts"),
        (f"model.depth={'[' * 100_000}", "model.depth: "),
        (f"model.depth={'9' * 5000}", "model.depth: "),
        ("model.depth=2\nmodel.width=3", "model.depth: "),
        (f"run.name={'x' * (2 << 20)}", "1,048,576 characters"),
    ],
    ids=["dots", "nested", "digits", "line break", "large"],
)
def test_assignments_that_are_refused(assignment: str, reason: str) -> None:
    with pytest.raises(MdtError, match=reason) as caught:
        load_config([], [assignment])
    assert len(caught.value.message) < 1_000
