"""The documentation holds: links lead somewhere, commands parse, presets exist, keys are those."""

import json
import re
import signal
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors import safe_open

from mdt_cli.cli.app import app
from mdt_cli.cli.app import run as mdt
from mdt_cli.cli.hints import with_dashes
from mdt_cli.config import presets
from mdt_cli.config.load import load_config
from tests.autoencoders import save_autoencoder
from tests.documentation import PAGES, ROOT, Line, arguments, lines, table_below
from tests.pictures import png, write_folder

LINES = [line for page in PAGES for line in lines(page)]
COMMANDS = [(line, words) for line in LINES for words in arguments(line)]
RIGHT = [(line, words) for line, words in COMMANDS if not line.fails]
FORMATS = ROOT / "docs" / "formats.md"


def id_of(value: object) -> str:
    return str(value) if isinstance(value, Line) else ""


def slug(heading: str) -> str:
    """As Python-Markdown makes an anchor of a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_every_page_is_in_the_navigation() -> None:
    shown = re.findall(r": ([\w-]+\.md)$", (ROOT / ".mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(page.name for page in PAGES if page.name != "README.md")


def test_pages_show_the_commands() -> None:
    """Where nothing is found, nothing is checked."""
    assert {words[0] for _, words in COMMANDS} >= {*typer.main.get_command(app).commands}
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("line", "words"), RIGHT, ids=id_of)
def test_commands_parse(line: Line, words: list[str]) -> None:
    name, *rest = with_dashes(words)
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, list(rest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_these_options(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    commands = typer.main.get_command(app).commands
    for code in re.findall(r"`mdt ([^`]+)`", text):
        name, *words = code.split()
        if name.startswith("-"):
            continue
        known = {option for parameter in commands[name].params for option in parameter.opts}
        known |= {"--help", "-h"}
        for word in words:
            assert not word.startswith("-") or word in known, f"mdt {code}"


@pytest.mark.parametrize(
    ("line", "words"), [pair for pair in RIGHT if pair[1][0] == "pretrain"], ids=id_of
)
def test_configurations_are_valid(line: Line, words: list[str]) -> None:
    command = typer.main.get_command(app).commands["pretrain"]
    given = command.make_context("pretrain", words[1:]).params
    names = {option: parameter.name for parameter in command.params for option in parameter.opts}
    named = [name for name in given[names["--preset"]] or () if not name.startswith("./")]
    load_config(named, given[names["--set"]] or ())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_presets_exist(page: Path) -> None:
    for name in re.findall(r"(?<=[\s`]-p )[\w/-]+", page.read_text("utf-8")):
        assert name in (*presets.names(), "PRESET"), name


def test_recipes_names_every_preset() -> None:
    named = set(re.findall(r"`([\w/-]+)`", (ROOT / "docs" / "recipes.md").read_text("utf-8")))
    named |= set(re.findall(r"`([\w/-]+)`", (ROOT / "docs" / "finetune.md").read_text("utf-8")))
    assert set(presets.names()) <= named


def test_the_preset_that_is_walked_through_is_the_file() -> None:
    page = (ROOT / "docs" / "adding-a-recipe.md").read_text("utf-8")
    assert f"```toml\n{(ROOT / 'presets' / 'drop.toml').read_text('utf-8')}```" in page


def test_modules_that_a_new_part_touches_exist() -> None:
    page = (ROOT / "docs" / "adding-a-recipe.md").read_text("utf-8")
    paths = re.findall(r"`((?:core|config|services|metrics|tests)/[\w/]+\.py)`", page)
    assert len(paths) > 10
    for path in paths:
        root = ROOT if path.startswith("tests/") else ROOT / "mdt_cli"
        assert (root / path).is_file() or (
            path.endswith("NAME.py") and (root / path).parent.is_dir()
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every artifact, by the commands that make them."""
    folder = tmp_path_factory.mktemp("made")
    files = {f"{c}/{k}.png": png(10 * ord(c) + k, 16, 16) for c in "ab" for k in range(6)}
    write_folder(folder / "images", files)
    vae = save_autoencoder(folder / "vae")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    images, cache, run, drawn = (str(folder / n) for n in ("images", "cache", "run", "drawn"))
    quick = "model.hidden_size=24 model.num_heads=3 model.depth=12 model.patch_size=4 "
    quick += "training.steps=2 training.batch_size=4 log.every=1 preview.steps=2 ema.decays=[0.9] "
    quick += "sampling.steps=2"
    sets = [word for key in quick.split() for word in ("--set", key)]
    scores, reference = str(folder / "scores.json"), str(folder / "reference.npz")
    size, cpu = ["--size", "16", "--workers", "0"], ["--device", "cpu"]
    chosen = ["--metrics", "fid,kid", "--extractor", "efficientnet-lite0", "--save-reference"]
    for words in (
        ["encode-latents", images, cache, *size],
        ["encode-latents", images, str(folder / "latents"), *size, "--codec", vae, "--flip"],
        ["pretrain", cache, run, "-p", "mdtv2", *sets, *cpu],
        ["sample", run, drawn, "--seeds", "0-7", "--classes", "all", *cpu],
        ["evaluate", drawn, images, "--out", scores, *chosen, reference, *cpu],
        ["export", run, str(folder / "model")],
    ):
        assert mdt(words) == 0, words
    for number, handler in before.items():
        signal.signal(number, handler)
    return folder


def keys(path: Path) -> set[str]:
    return set(json.loads(path.read_text("utf-8")))


def tensors(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_keys_of_caches(made: Path) -> None:
    assert table_below(FORMATS, "`manifest.json`:") == keys(made / "cache" / "manifest.json")
    shards = [made / name / "shard-00000.safetensors" for name in ("cache", "latents")]
    found = set().union(*map(tensors, shards))
    assert table_below(FORMATS, "Tensors of a shard") == found


def test_keys_of_runs(made: Path) -> None:
    run, text = made / "run", FORMATS.read_text("utf-8")
    line = json.loads((run / "log.jsonl").read_text("utf-8").splitlines()[0])
    assert table_below(FORMATS, "A line of `log.jsonl`") == set(line)
    tables = re.findall(r"^\[(\w+)\]", (run / "config.toml").read_text("utf-8"), re.MULTILINE)
    assert ", ".join(f"`{name}`" for name in tables) in text.replace(",\n", ", ")
    folder = run / "checkpoints" / "step-0000002"
    assert table_below(FORMATS, "`state.json`:") == keys(folder / "state.json")
    assert all(path.name in text for path in folder.iterdir() if "ema" not in path.name)
    with safe_open(folder / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    assert table_below(FORMATS, "Every weights file") == set(metadata)
    facts = ", ".join(f"`{name}`" for name in json.loads(metadata["mdt.data"]))
    assert f"the facts of the cache as JSON: {facts} |" in text


def test_keys_of_samples_and_reports(made: Path) -> None:
    found = table_below(FORMATS, "written last:")
    assert found == keys(made / "drawn" / "samples.json")
    assert table_below(FORMATS, "Written by [evaluate]") == keys(made / "scores.json")
    with np.load(made / "reference.npz") as arrays:
        held = set(arrays)
    assert table_below(FORMATS, "`mdt evaluate --save-reference") == held | {"mu_s", "sigma_s"}


def test_keys_of_an_exported_model(made: Path) -> None:
    assert table_below(FORMATS, "  README.md ") == keys(made / "model" / "model_index.json")
