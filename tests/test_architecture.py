"""The shape of the code itself: layers, sizes, what starts fast."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "mdt_cli").rglob("*.py"))
RECIPES = ("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "uvit")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small_and_know_no_recipe(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 300
    # A recipe is a preset: code that asks which one it runs is code in the wrong place.
    assert not re.search(rf"recipe\s*==|== [\"']({'|'.join(RECIPES)})[\"']", text)


LOSSES = ("Classification", "Reconstruction", "Epsilon", "Edm", "Flow", "NoiseFree", "Diffusion")
# The name of a kind in a comparison, or the attribute or key that holds one.
KIND = re.compile(
    r"'(epsilon|edm|flow|reconstruction|classification)'"
    r"|(objective|loss|diffusion)('\])?(\.kind|\['kind'\])"
)
SERVICES = [path for path in SOURCES if "services" in path.parts]


def asked_types(text: str, losses: set[str]) -> list[str]:
    """Lines that ask which of `losses` an object is: by class, or by the name of its kind."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, classes]):
                names = {n.id for n in ast.walk(classes) if isinstance(n, ast.Name)}
            case ast.MatchClass(cls=ast.Name(id=name)):
                names = {name}
            case ast.Compare() if KIND.search(ast.unparse(node)):
                names = losses
            case _:
                continue
        found += [f"line {node.lineno}: {ast.unparse(node)}"] if names & losses else []
    return found


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: str(path.relative_to(ROOT)))
def test_services_ask_a_loss_what_it_can_do_and_not_what_it_is(path: Path) -> None:
    # The builders turn configuration into losses, so they alone match its classes.
    configs = () if "build" in path.parts else (f"{name}Config" for name in LOSSES)
    assert asked_types(path.read_text("utf-8"), {*LOSSES, *configs}) == []


def test_questions_about_the_class_of_a_loss_are_found() -> None:
    for line in (
        "isinstance(loss, Edm | Flow)",
        "if config.objective.kind == 'edm': pass",
        "before = header['objective']['kind'] == now",
        "if name in ('edm', 'ddpm'): pass",
        "match loss:\n    case Edm(): pass",
    ):
        assert len(asked_types(line, set(LOSSES))) == 1, line
    assert asked_types("loss.diffusion is None or isinstance(x, Table)", set(LOSSES)) == []


def test_every_loss_is_among_those_looked_for() -> None:
    done = python(
        "from mdt_cli.core.objectives import base, classification, edm, epsilon, flow, "
        "reconstruction\n"
        "def below(cls): return {cls.__name__}.union(*map(below, cls.__subclasses__()))\n"
        "print(*sorted(below(base.Loss) - {'Loss'}))"
    )
    assert done.stdout.split() == sorted(LOSSES), done.stderr


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["pretrain", "--help"],
        ["presets"],
        ["presets", "mdtv2"],
        ["pretrain", "c", "r", "-p", "mdtv3", "--dry-run"],
        ["pretrain", "c", "r", "-p", "mdtv2", "--set", "a.b=1", "--dry-run"],
        ["sample", "--nonsense"],
    ],
    ids=" ".join,
)
def test_no_torch_for_words(arguments: list[str]) -> None:
    code = (
        "import sys; from mdt_cli.cli.app import run; "
        f"run({arguments!r}); print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    done = python(code)
    assert done.stdout.rstrip().endswith("False False"), done.stdout + done.stderr


def test_help_is_quick() -> None:
    """0.25 s of processor time on an idle machine, of which 0.2 are Python, typer and rich."""

    def seconds() -> float:
        before = os.times()
        done = python(
            "import sys; from mdt_cli.cli.app import run; run(['--help']);"
            "print('pydantic' in sys.modules)"
        )
        after = os.times()
        assert done.stdout.rstrip().endswith("False"), done.stdout + done.stderr
        return (
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )

    # Processor time, the best of several: other processes hardly lengthen it.
    assert min(seconds() for _ in range(7)) < 0.4


def test_the_core_needs_neither_diffusers_nor_pydantic() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if "core" in path.parts and path.name != "__init__.py"
    ]
    done = python(
        "import sys\n"
        "for name in ('diffusers', 'accelerate', 'pydantic', 'typer', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('fine')"
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_event_is_the_union_of_all_events() -> None:
    done = python(
        "import dataclasses, typing\n"
        "from mdt_cli.services import events\n"
        "classes = {x for x in vars(events).values() if dataclasses.is_dataclass(x)}\n"
        "print(len(classes), classes == set(typing.get_args(events.Event)))"
    )
    count, same = done.stdout.split()
    assert int(count) > 15
    assert same == "True", done.stderr


Methods = dict[str, dict[str, ast.FunctionDef]]


@cache
def classes() -> tuple[dict[str, list[str]], Methods, set[str]]:
    """Names of the bases and the methods of each class of the package, and which are protocols."""
    bases: dict[str, list[str]] = {}
    methods: Methods = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases]
                inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                methods[node.name] = {n.name: n for n in inner}
    return bases, methods, {name for name in bases if "Protocol" in bases[name]}


def undocumented(path: Path) -> list[str]:
    """Public functions and methods without a docstring; methods that a base or protocol documents
    are left out, as are `forward` and `step`, whose contract is torch's."""
    bases, methods, protocols = classes()

    def inherited(owner: str, name: str) -> bool:
        own = set(methods[owner])
        met = {p for p in protocols if p != owner and {*methods[p]} and {*methods[p]} <= own}
        for base in {*bases[owner], *met}:
            if name in ("forward", "step") and base in ("Module", "Optimizer"):
                return True
            if base in methods and (name in methods[base] or inherited(base, name)):
                return True
        return False

    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found += [] if ast.get_docstring(node) else [node.name]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            missing = [n for n, m in methods[node.name].items() if not ast.get_docstring(m)]
            found += [f"{node.name}.{n}" for n in missing if not inherited(node.name, n)]
    return [name for name in found if not name.split(".")[-1].startswith("_")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_and_methods_state_their_contract(path: Path) -> None:
    assert undocumented(path) == []


# Own text: a value that goes through JSON once, a header just written, and files of diffusers that
# an exported folder (which has no `mdt` to import) writes itself.
OWN_JSON = {
    "artifacts/sample_folder/npz.py",
    "artifacts/sample_folder/png.py",
    "artifacts/weights.py",
    "core/codecs/autoencoder.py",
    "services/export/templates/pipeline.py",
}


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        (("json.load", "json.loads"), {"json_reader.py", *OWN_JSON}),
        (("tomllib.load", "tomllib.loads"), {"toml_reader.py"}),
        (("Image.open",), {"images/open_image.py"}),
    ],
    ids=["json", "toml", "images"],
)
def test_each_format_has_one_reader(calls: tuple[str, ...], allowed: set[str]) -> None:
    found = {
        path.relative_to(ROOT / "mdt_cli").as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in calls
    }
    assert found == allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_catches_whatever_comes(path: Path) -> None:
    """A tracker of another program may raise what it likes; it stands alone."""
    found = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
    ]
    assert bool(found) == (path.name == "trackers.py"), found
