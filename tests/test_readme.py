"""The command lines of the README, run as they stand on small pictures."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.autoencoders import save_autoencoder
from tests.pictures import png, write_folder
from tests.services.training_kit import environment, make_images

ROOT = Path(__file__).resolve().parents[1]
# Appended to the README's words so that each stage takes seconds.
SMALLER = {
    "pretrain": "--set training.steps=4 --set training.batch_size=4 --set preview.steps=2 "
    "--set preview.per_class=1 --set model.hidden_size=24",
    "finetune": "--set training.steps=2",
    "sample": "--steps 2 --seeds 0-5",
    "evaluate": "--metrics fid",
}


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines()]


def test_the_chain_of_the_readme_runs(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures", per_class=6, size=32)
    chain = [line for line in commands() if line.startswith("mdt ")][:6]
    stages = [shlex.split(line)[1] for line in chain]
    assert stages == ["encode-latents", "pretrain", "finetune", "sample", "evaluate", "export"]
    for line, stage in zip(chain, stages, strict=True):
        words = [*shlex.split(line)[1:], *shlex.split(SMALLER.get(stage, ""))]
        done = subprocess.run(
            [sys.executable, "-m", "mdt_cli", *words],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_scores_of_the_readme_run(tmp_path: Path) -> None:
    """An outsider's commands, on small pictures and a small random autoencoder."""
    for k, name in enumerate(("generated", "real", "run-a", "run-b", "run-c")):
        files = {f"{i}.png": png(100 * k + i, 32, 32) for i in range(5)}
        write_folder(tmp_path / name, files)
    codec = save_autoencoder(tmp_path / "vae")
    lines = [line for line in commands() if " evaluate " in line][1:]
    assert len(lines) == 4
    for line in lines:
        _, _, here = line.rpartition("&& .venv/bin/")  # what comes before installs
        words = shlex.split(here.replace("stabilityai/sd-vae-ft-ema", codec))
        launcher = ["-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else []
        done = subprocess.run(
            [sys.executable, *(launcher or ["-m", "mdt_cli", *words[1:]])],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "not comparable" in done.stdout or "no table family" in done.stdout
    assert (tmp_path / "generated" / "report.html").is_file()
    assert (tmp_path / "comparison.html").is_file()


@pytest.mark.parametrize("line", [line for line in commands() if " -m mdt_cli" in line])
def test_launchers_name_the_module(line: str) -> None:
    assert "torchrun" in line
    assert (ROOT / "mdt_cli" / "__main__.py").is_file()


def test_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert 'pip install --quiet --disable-pip-version-check -e ".[dev]"' in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert any('pip install -e ".[dev]" && .venv/bin/python -m pytest' in c for c in commands())


def test_restoring_and_naming_of_the_readme_run(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures", per_class=12, size=32)
    lines = [line for line in commands() if "runs/lmd" in line or "runs/names" in line]
    smaller = {
        "pretrain": SMALLER["pretrain"]
        + " --set model.narrow_decoder={depth=1,hidden_size=16,num_heads=2}",
        "finetune": "--set training.steps=2 --set training.batch_size=4",
    }
    assert [shlex.split(line)[1] for line in lines] == ["pretrain", "sample", "finetune", "inspect"]
    for line in ["mdt encode-latents pictures cache --codec pixels --size 32", *lines]:
        words = shlex.split(line)[1:]
        done = subprocess.run(
            [sys.executable, "-m", "mdt_cli", *words, *shlex.split(smaller.get(words[0], ""))],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "MAT@1" in done.stdout
