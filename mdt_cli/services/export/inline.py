"""Several of our modules as one self-contained file: the code of an exported folder.

The text is taken from the installed sources, so that the folder and `mdt` compute the same.
"""

import ast
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader

from pydantic import BaseModel

PACKAGE = "mdt_cli"


@dataclass(frozen=True)
class Source:
    """One module: its lines, its syntax tree, and the modules of ours that it needs."""

    name: str
    lines: list[str]
    tree: ast.Module
    needs: tuple[str, ...]


def bundle(
    entry: str,
    title: str,
    tables: Mapping[str, Sequence[type[BaseModel]]] | None = None,
) -> str:
    """`entry` and every module of ours that it imports, each before those that import it.

    tables: modules of configuration tables, replaced by plain dataclasses with the same fields.
    Raises ValueError where names of two modules collide or an import cannot be flattened.
    """
    tables = tables or {}
    sources = _in_order(entry, set(tables))
    _check_collisions(sources, tables)
    outside: dict[str, None] = {}
    parts: list[str] = []
    for name, classes in tables.items():
        outside["from dataclasses import dataclass"] = None
        parts.append(f"# ---- {name}: its fields and defaults\n\n" + _as_dataclasses(classes))
    for source in sources:
        outside |= dict.fromkeys(_outside_imports(source))
        parts.append(_body(source))
    imports = sorted(outside, key=lambda line: (line.startswith("from"), line))
    return "\n\n".join([f'"""{title}"""', "\n".join(imports), *parts]).rstrip() + "\n"


def _in_order(entry: str, skipped: set[str]) -> list[Source]:
    done: dict[str, Source] = {}

    def visit(name: str) -> None:
        if name in done or name in skipped:
            return
        source = _read(name)
        for needed in source.needs:
            visit(needed)
        done[name] = source

    visit(entry)
    return list(done.values())


def _read(name: str) -> Source:
    spec = importlib.util.find_spec(name)
    loader = spec.loader if spec is not None else None
    if not isinstance(loader, SourceFileLoader):
        raise ValueError(f"{name} has no source to bundle")
    text = loader.get_source(name) or ""
    tree = ast.parse(text)
    needs: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(_is_ours(a.name) for a in node.names):
            raise ValueError(f"{name}, line {node.lineno}: only `from ... import` can be bundled")
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            raise ValueError(f"{name}, line {node.lineno}: a relative import cannot be bundled")
        if not _is_ours(node.module or ""):
            continue
        for alias in node.names:
            if alias.asname is not None:
                raise ValueError(f"{name} renames {alias.name}: a bundle has one name for a thing")
            if _is_module(f"{node.module}.{alias.name}"):
                raise ValueError(f"{name} imports the module {alias.name}, not names from it")
        needs[node.module or ""] = None
    return Source(name, text.splitlines(), tree, tuple(needs))


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _check_collisions(
    sources: Sequence[Source], tables: Mapping[str, Sequence[type[BaseModel]]]
) -> None:
    owner: dict[str, str] = {}

    def claim(name: str, by: str) -> None:
        if owner.setdefault(name, by) != by:
            raise ValueError(f"{name} means one thing in {owner[name]} and another in {by}")

    for module, classes in tables.items():
        for cls in classes:
            claim(cls.__name__, module)
    for source in sources:
        for node in source.tree.body:
            for name in _defined(node):
                claim(name, source.name)
    for source in sources:
        for node in source.tree.body:
            for name, origin in _bound_by_import(node):
                claim(name, f"import {origin}")


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            names = [n for target in targets for n in ast.walk(target)]
            return [n.id for n in names if isinstance(n, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def _bound_by_import(node: ast.stmt) -> list[tuple[str, str]]:
    """(name, where it comes from) of an import from outside."""
    match node:
        case ast.Import(names=names):
            return [(a.asname or a.name.partition(".")[0], a.name) for a in names]
        case ast.ImportFrom(module=module, names=names) if not _is_ours(module or ""):
            return [(a.asname or a.name, f"{module}.{a.name}") for a in names]
        case _:
            return []


def _outside_imports(source: Source) -> list[str]:
    """Imports of the module's top level, one line a name, that are not ours."""
    lines = []
    for node in source.tree.body:
        match node:
            case ast.Import(names=names):
                lines += [ast.unparse(ast.Import([alias])) for alias in names]
            case ast.ImportFrom(module=module, names=names) if not _is_ours(module or ""):
                lines += [ast.unparse(ast.ImportFrom(module, [a], 0)) for a in names]
    return lines


def _body(source: Source) -> str:
    """The module's own lines, comments included, without its imports and docstring."""
    dropped: set[int] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            dropped |= _lines_of(node)
    for node in source.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            dropped |= _lines_of(node)
    docstring = ast.get_docstring(source.tree) or ""
    if docstring:
        dropped |= _lines_of(source.tree.body[0])
    kept = [line for i, line in enumerate(source.lines, 1) if i not in dropped]
    head = [f"# ---- {source.name.removeprefix(PACKAGE + '.')}", "#"]
    head += [f"# {line}".rstrip() for line in docstring.splitlines()]
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept).strip())
    return "\n".join(head) + "\n\n\n" + text


def _lines_of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _as_dataclasses(classes: Sequence[type[BaseModel]]) -> str:
    """Each table as a frozen dataclass: validation is done when a file is written."""
    blocks = []
    for cls in classes:
        lines = ["@dataclass(frozen=True)", f"class {cls.__name__}:"]
        for name, field in cls.model_fields.items():
            default = field.default
            if isinstance(default, BaseModel):
                lines.append(f"    {name}: object = {type(default).__name__}()")
            else:
                lines.append(f"    {name}: {type(default).__name__} = {default!r}")
        blocks.append("\n".join(lines))
    return "\n\n\n".join(blocks)
