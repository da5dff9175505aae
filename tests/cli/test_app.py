"""Exit codes, streams and the list of flags, as a shell sees them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdt_cli.cli.app import run

ROOT = Path(__file__).resolve().parents[2]

FLAGS = {
    "encode-latents": "--batch-size --codec --device --dtype --file-column "
    "--flip --json --label-before --label-before-last --label-column --labels --limit --only "
    "--shard-size --size --strict --unconditional --verify --white --workers",
    "pretrain": "--device --dry-run --fresh --json --preset --set",
    "finetune": "--device --dry-run --ema --fresh --from --json --preset --set",
    "sample": "--batch-size --classes --codec --device --ema --format --grid --guidance --json "
    "--mask-ratio --only --precision --reconstruct --seeds --solver --steps",
    "import": "--classes --codec --decoder-depth --family --json --set --weights",
    "evaluate": "--batch-size --device --extractor --file-column --json --label-before "
    "--label-before-last --label-column --labels --memory --metrics --only "
    "--out --reconstruction --resize --samples-only --save-reference --size --weights",
    "quickstart": "--device --json",
    "presets": "--json --plot",
}


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command: str) -> None:
    """What is a key of the configuration is set with --set; a new flag needs a reason."""
    from mdt_cli.cli.app import app

    callback = next(c.callback for c in app.registered_commands if c.name == command)
    assert callback is not None
    import typer

    group = typer.main.get_command(app)
    parameters = group.commands[command].params
    flags = {o for p in parameters for o in p.opts if o.startswith("--")} - {"--help"}
    assert " ".join(sorted(flags)) == FLAGS[command]


def test_a_users_error_is_a_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "no-cache", "run", "-p", "mdtv3"]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == "error: no such preset: mdtv3\n  did you mean mdtv2?\n"


def test_no_preset_is_an_error_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "cache", "run"]) == 1
    assert "choose one with -p" in capsys.readouterr().err


def test_missing_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["pretrain", str(tmp_path / "none"), str(tmp_path / "run"), "-p", "dit"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["nonsense"], ["sample"], ["pretrain", "--nonsense"]])
def test_usage_is_exit_code_two(arguments: list[str]) -> None:
    assert run(arguments) == 2


def test_underscores_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "c", "r", "-p", "dit", "--dry_run"]) == 1
    assert "c" in capsys.readouterr().err


def test_presets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "--json"]) == 0
    assert "mdtv2" in json.loads(capsys.readouterr().out)


def test_presets_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "mdtv2"]) == 0
    text = capsys.readouterr().out
    assert "Gao et al. 2023" in text
    assert "restore_at = -6" in text


def test_a_signal_while_nothing_is_saved_yet(tmp_path: Path) -> None:
    code = (
        "import os, signal, time, mdt_cli.cli.app as app, mdt_cli.cli.presets as p\n"
        "from mdt_cli.config import presets\n"
        "presets.names = lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5)\n"
        "import sys; sys.exit(app.run(['presets']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + signal.SIGINT
    assert "stopped by SIGINT" in done.stderr


def test_dry_run_prints_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.services.training_kit import make_cache, make_images

    cache = make_cache(tmp_path / "cache", make_images(tmp_path / "images"))
    words = ["pretrain", str(cache), str(tmp_path / "run"), "-p", "mdtv2", "-p", "size/s"]
    assert run([*words, "--dry-run", "--json"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert derived["tokens"] == 64
    assert derived["kept"] == "32 to 44"
    assert derived["parameters"] > 30e6
    assert run([*words, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "# preset size/s" in text
    assert "GFLOP" in text
    assert not (tmp_path / "run").exists()


def test_brackets_in_a_table_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an exported program: rich would take them for markup and drop them."""
    from mdt_cli.cli.output import table

    table("run[1]", ("fact", "value"), [("inputs.x", "float32 [batch, 3, 8, 8]")])
    shown = capsys.readouterr().out
    assert "float32 [batch, 3, 8, 8]" in shown
    assert "run[1]" in shown
