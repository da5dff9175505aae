"""What hands from other tools type."""

import re
from pathlib import Path

import pytest
import typer

from mdt_cli import __version__
from mdt_cli.cli.app import app, run
from mdt_cli.cli.hints import HINTS
from mdt_cli.config.load import load_config
from tests.services.tiny_weights import write_weights


def options(command: str) -> set[str]:
    parameters = typer.main.get_command(app).commands[command].params
    return {option for parameter in parameters for option in parameter.opts}


@pytest.mark.parametrize("command", sorted(HINTS))
def test_a_foreign_name_hides_no_option_and_leads_to_one(command: str) -> None:
    assert not HINTS[command].keys() & options(command)
    for hint in HINTS[command].values():
        assert not hint.startswith("-") or hint.split()[0] in options(command)


KEYS = sorted({hint[6:] for hint in HINTS["pretrain"].values() if hint.startswith("--set ")})
VALUES = {"optimizer.lr": "1e-4", "training.precision": "bf16", "training.batch_size": "8"}


@pytest.mark.parametrize("assignment", KEYS)
def test_the_keys_of_hints_exist(assignment: str) -> None:
    value = VALUES.get(assignment.partition("=")[0], "0.5" if "decays" in assignment else "1")
    load_config(["dit"], [assignment.format(value=value)])


def test_underscores_in_names_of_options_are_dashes(tmp_path: Path) -> None:
    weights = str(write_weights(tmp_path / "w.safetensors"))
    words = {"dashes": "--batch-size 2", "underscores": "--batch_size=2"}
    for name, chosen in words.items():
        rest = ["--seeds", "0-1", "--device", "cpu", "--steps", "3", *chosen.split()]
        assert run(["sample", weights, str(tmp_path / name), *rest]) == 0
    for name in ("000000.png", "000001.png"):
        pair = [(tmp_path / one / name).read_bytes() for one in words]
        assert pair[0] == pair[1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("pretrain c r -p dit --learning-rate 1e-4", "use --set optimizer.lr=1e-4"),
        ("pretrain c r --global_batch_size=512", "use --set training.batch_size=512"),
        ("finetune c r --from w --mixed-precision bf16", "use --set training.precision=bf16"),
        ("pretrain c r --ema_rate 0.9999", "use --set ema.decays=[0.9999]"),
        ("pretrain --results-dir r", "mdt pretrain CACHE RUN"),
        ("sample w --outdir out", "mdt sample RUN OUT"),
        ("sample w out --heun --steps 3", "use --solver heun"),
        ("sample w out --cfg_scale=2", "use --guidance 2"),
        ("sample w out --num-sampling-steps 3", "use --steps 3"),
        ("sample w out --class 1", "use --classes 1"),
        ("encode-latents i c --image-size 256", "use --size 256"),
        ("encode-latents i c --flip-aug", "use --flip"),
    ],
)
def test_near_names_are_a_usage_error_with_a_hint(
    words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "has no option --" in streams.err
    assert hint in streams.err


def test_no_help_shows_foreign_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "-h"]) == 0
    shown = capsys.readouterr().out
    assert "--guidance" in shown
    assert not re.search("--cfg-scale|--num-steps|--per-proc", shown)
    assert run(["-h"]) == 0
    assert "pretrain" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mdt {__version__}\n"
