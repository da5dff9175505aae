"""A bundle stands alone, says what its sources say, and refuses what it cannot flatten."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mdt_cli.core.model.transformer import Transformer
from mdt_cli.services.export.diffusers_folder import TABLES
from mdt_cli.services.export.inline import bundle

ENTRIES = {
    "pipeline": "mdt_cli.services.export.templates.pipeline",
    "transformer": "mdt_cli.services.export.templates.transformer",
    "dit": "mdt_cli.services.export.templates.dit",
}
# What a person who has diffusers has as well.
ALLOWED = {"torch", "diffusers", "numpy", "PIL", "safetensors"}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_bundle_stands_alone(name: str, tmp_path: Path) -> None:
    text = bundle(ENTRIES[name], "Title.", TABLES)
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) <= ALLOWED
    file = tmp_path / "bundled.py"
    file.write_text(text)
    # Undefined and redefined names.
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", file]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_bundle_keeps_code_and_comments() -> None:
    text = bundle(ENTRIES["transformer"], "Title.")
    assert "# Heads first, so that each head's plane is contiguous" in text
    assert '"""The norm in front of a modulation' in text
    names = [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]
    assert names.index("Block") < names.index("Transformer") < names.index("MdtTransformer2DModel")
    assert Transformer.__name__ in names


def test_tables_become_dataclasses_with_the_same_fields() -> None:
    scope: dict[str, object] = {"__name__": "bundled"}
    tree = ast.parse(bundle(ENTRIES["pipeline"], "Title.", TABLES))
    wanted = {cls.__name__ for cls in TABLES["mdt_cli.config.sampling"]}
    tree.body = [
        node
        for node in tree.body
        if (isinstance(node, ast.ClassDef) and node.name in wanted)
        or (isinstance(node, ast.ImportFrom) and node.module == "dataclasses")
    ]
    exec(compile(tree, "bundled", "exec"), scope)
    for cls in TABLES["mdt_cli.config.sampling"]:
        ours, theirs = cls(), scope[cls.__name__]()  # type: ignore[operator]
        for field in cls.model_fields:
            expected, found = getattr(ours, field), getattr(theirs, field)
            if field == "guidance":
                expected, found = type(expected).__name__, type(found).__name__
            assert expected == found


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Modules in a package of its own, which stands in for ours."""
    name = f"bundled_{folder.name}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    for module, text in modules.items():
        (folder / name / f"{module}.py").write_text(text.replace("PKG", name))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("mdt_cli.services.export.inline.PACKAGE", name)


@pytest.mark.parametrize(
    ("entry", "other", "sentence"),
    [
        ("from PKG.b import f\nx = 1\n", "x = 2\ndef f(): ...\n", "x means one thing in"),
        ("from PKG.b import f as g\n", "def f(): ...\n", "renames f"),
        ("from PKG import b\n", "", "imports the module b"),
        ("import PKG.b\n", "", "only `from ... import`"),
        ("from .b import f\n", "def f(): ...\n", "relative import"),
        ("from math import pi\nfrom PKG.b import f\n", "def f(): ...\ndef pi(): ...\n", "pi means"),
    ],
)
def test_what_cannot_be_flattened_is_refused(
    entry: str, other: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch, a=entry, b=other)
    with pytest.raises(ValueError, match=sentence):
        bundle(f"bundled_{tmp_path.name}.a", "Title.")
