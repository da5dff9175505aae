"""The command lines of the README, and some of its pages, run as they stand on small images."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.autoencoders import save_autoencoder
from tests.documentation import PAGES, ROOT, lines
from tests.pictures import png, write_folder
from tests.services.training_kit import environment, make_images

# Appended to the words of a page so that each stage takes seconds.
SMALLER = {
    "pretrain": "--set training.steps=4 --set training.batch_size=4 --set preview.steps=2 "
    "--set preview.per_class=1 --set model.hidden_size=24",
    "finetune": "--set training.steps=2 --set training.batch_size=4",
    "sample": "--steps 2 --seeds 0-5",
    "evaluate": "--metrics fid",
}


def commands(page: str = "README.md") -> list[str]:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    return [line.text for line in lines(folder / page)]


def run(line: str, folder: Path, more: str = "") -> str:
    """What the command of a page, with `more` words, prints on stdout."""
    _, _, here = line.rpartition("&& .venv/bin/")  # what comes before installs
    words = [*shlex.split(here), *shlex.split(more)]
    launcher = ["-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else []
    done = subprocess.run(
        [sys.executable, *(launcher or ["-m", "mdt_cli", *words[1:]])],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_the_chain_of_the_readme_runs(tmp_path: Path) -> None:
    make_images(tmp_path / "images", per_class=6, size=32)
    chain = [line for line in commands() if line.startswith("mdt ")]
    stages = [shlex.split(line)[1] for line in chain]
    assert stages == ["encode-latents", "pretrain", "finetune", "sample", "evaluate", "export"]
    for line, stage in zip(chain, stages, strict=True):
        run(line, tmp_path, SMALLER.get(stage, ""))


def test_the_scores_of_the_documentation_run(tmp_path: Path) -> None:
    """An outsider's commands, on small images and a small random autoencoder."""
    for k, name in enumerate(("generated", "real", "run-a", "run-b", "run-c")):
        files = {f"{i}.png": png(100 * k + i, 32, 32) for i in range(5)}
        write_folder(tmp_path / name, files)
    codec = save_autoencoder(tmp_path / "vae")
    scored = [line for line in commands("evaluation.md") if re.search(r" real( |$)", line)]
    assert len(scored) == 4
    for line in scored:
        shown = run(line.replace("stabilityai/sd-vae-ft-ema", codec), tmp_path)
        assert "not comparable" in shown or "no table family" in shown
    assert (tmp_path / "generated" / "report.html").is_file()
    assert (tmp_path / "comparison.html").is_file()


def test_the_way_through_an_autoencoder_runs(tmp_path: Path) -> None:
    make_images(tmp_path / "images", per_class=6, size=32)
    codec = save_autoencoder(tmp_path / "vae")
    several = "--set training.batch_size=8 --set training.micro_batch_size=4"
    found = [line for line in commands("your-images.md") if "sd-vae" in line or "gpu" in line]
    assert len(found) == 3
    steps = f"{SMALLER['pretrain']} --set training.precision=no"
    for line, more in zip(found, ("--size 32", steps, f"{steps} {several}"), strict=True):
        here = line.replace("stabilityai/sd-vae-ft-ema", codec)
        run(here.replace("--nproc_per_node 8", "--nproc_per_node 2"), tmp_path, more)


def test_lmd_of_the_documentation_runs(tmp_path: Path) -> None:
    """The steps of two pages, in a folder as the quickstart leaves it."""
    make_images(tmp_path / "digits", per_class=12, size=8)
    run("mdt encode-latents digits mdt-quickstart/cache --codec pixels --size 8", tmp_path)
    found = [line for line in commands("finetune.md") if "runs/lmd" in line or "/names" in line]
    found[1:1] = [line for line in commands("sample.md") if "--reconstruct" in line]
    stages = [shlex.split(line)[1] for line in found]
    assert stages == ["pretrain", "sample", "finetune", "inspect"]
    for line, stage in zip(found, stages, strict=True):
        shown = run(line, tmp_path, SMALLER[stage] if stage in ("pretrain", "finetune") else "")
    assert "MAT@1" in shown


@pytest.mark.parametrize(
    "line", [line.text for page in PAGES for line in lines(page) if " -m mdt_cli" in line.text]
)
def test_launchers_name_the_module(line: str) -> None:
    assert "torchrun" in line or "accelerate launch" in line
    assert (ROOT / "mdt_cli" / "__main__.py").is_file()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert 'pip install --quiet --disable-pip-version-check -e ".[dev]"' in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    [command] = [c for c in commands() if 'pip install -e ".[dev]"' in c]
    tests = command.rpartition("&& .venv/bin/")[2]
    assert tests.startswith("python -m pytest")
    assert script.rstrip().endswith(tests)
