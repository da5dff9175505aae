"""Names of files and classes are data: on a terminal and in a page they are shown, not obeyed."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdt_cli.cli import output
from mdt_cli.cli.app import run as mdt
from mdt_cli.cli.progress import Bar
from mdt_cli.services.export.model_card import Card, render
from mdt_cli.services.model import load_trained
from mdt_cli.text import fenced, markdown, printable
from tests.pictures import png, write_folder

CPU = torch.device("cpu")
OLD = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1"
# Colours, the title of the window, a link, the cursor, 8-bit escapes, deletion, text direction.
ESCAPES = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http://a\x1b\\link",
    "\x1b[2J",
    "\x9b1A",
    "a\x7f\x08b",
    "\u202egpj.exe",
    "a\rb",
)
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
MARKUP = ("[red]x[/red]", "[/]", "a|b", "<script>alert(1)</script>", "`a`", "*b*", "[c](http://d)")


@pytest.mark.parametrize("name", ESCAPES)
def test_control_characters_are_shown_as_json_writes_them(name: str) -> None:
    shown = printable(name)
    assert not FORBIDDEN.search(shown)
    assert printable(shown) == shown


def test_line_breaks_of_names_are_none_of_the_message() -> None:
    assert printable("a\nerror: b\n  a second line", one_line=True) == (
        "a\\nerror: b\n  a second line"
    )


@pytest.mark.parametrize("write", [output.talk, output.warn, lambda t: output.fail(t, t)])
def test_messages(write: object, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*ESCAPES, "a\nfake"):
        write(f"no such file: {name}")  # type: ignore[operator]
        shown = capsys.readouterr().err
        assert not FORBIDDEN.search(shown)
        assert "\nfake" not in shown


def test_data_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*ESCAPES, *MARKUP):
        output.emit(name)
        output.emit_json({"name": name})
        output.table(name, ["column"], [[name]])
        assert not FORBIDDEN.search(capsys.readouterr().out)
        output.emit_json({"name": name})
        assert json.loads(capsys.readouterr().out) == {"name": name}
    output.table("t", ["column"], [[name] for name in MARKUP])
    shown = capsys.readouterr().out
    assert all(name in shown for name in MARKUP)


def test_a_bar_reads_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with Bar("[/] [red]", "images") as bar:
        for name in (*MARKUP, *ESCAPES):
            bar.update(1, 2, name)


def test_names_in_a_folder_reach_the_terminal_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name.replace("/", ":") for name in (*ESCAPES, *MARKUP, "a\nb")]
    write_folder(tmp_path, {f"{name}/0.png": png(k) for k, name in enumerate(names)})
    (tmp_path / names[0] / "1.png").write_bytes(b"no image")
    for words in (["inspect", str(tmp_path)], ["inspect", str(tmp_path), "--json"]):
        assert mdt(words) == 0
        out = capsys.readouterr()
        assert not FORBIDDEN.search(out.out + out.err)
    target = tmp_path.parent / f"{tmp_path.name}-cache\x1b[1m"
    assert mdt(["encode-latents", str(tmp_path), str(target), "--size", "8", "--workers", "0"]) == 0
    out = capsys.readouterr()
    assert not FORBIDDEN.search(out.out + out.err)
    assert mdt(["inspect", str(target)]) == 0
    assert mdt(["sample", str(tmp_path / "\x1b[31m"), str(tmp_path / "out")]) == 1
    out = capsys.readouterr()
    assert not FORBIDDEN.search(out.out + out.err)
    shutil.rmtree(target)


def test_a_preset_is_shown_without_its_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("# A preset.\x1b[2J\n[model]\ndepth = 2\n")
    mdt(["presets", str(preset)])
    preset.write_text('# A preset.\n[model]\n"de\\u001b[2Jpth" = 2\n"\\u009b1A" = 1\n')
    mdt(["presets", str(preset)])
    mdt(["inspect", str(preset)])
    mdt(["pretrain", "c", "r", "-p", str(preset), "--dry-run"])
    out = capsys.readouterr()
    assert not FORBIDDEN.search(out.out + out.err)


def test_markdown_shows_what_it_is_given() -> None:
    assert markdown("a|b <script>\n# [x](y) `z` *w*") == (
        "a\\|b &lt;script&gt; # \\[x\\](y) \\`z\\` \\*w\\*"
    )
    assert markdown("fd_efficientnet_lite0") == "fd_efficientnet_lite0"
    assert markdown("\ud800\x1b") == "\ufffd\\\\u001b"
    assert fenced("toml", "a\n```\nb") == "````toml\na\n```\nb\n````"


def test_class_names_in_a_model_card(tmp_path: Path) -> None:
    trained = load_trained(OLD / "imported/weights.safetensors", None, CPU)
    names = ["<script>alert(1)</script>|", "a\n# heading\n```\x1b[31m\ud800"]
    report = json.loads((OLD / "report.json").read_text("utf-8"))
    metric = next(iter(report["metrics"].values()))
    report["metrics"] = {"<img src=x>|\n": {**metric, "extractor": "`x`|<b>"}}
    report["comparability"]["verdict"] = "<b>yes</b>\n\n# no"
    trained = replace(trained, facts={**trained.facts, "class_names": names})
    card = Card("<h1>\n# other", "print('```')", "checked", report=report)
    page = render(card, trained)
    assert not FORBIDDEN.search(page)
    page.encode("utf-8")
    outside = re.sub(r"^(`{3,}).*?^\1", "", page, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<\w", outside)
    headings = re.findall(r"^#+ .*", outside, re.MULTILINE)
    assert len(headings) == 6, headings
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 6}
