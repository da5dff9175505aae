"""The card of an exported folder: what it tells, and whose scores it shows."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from mdt_cli.config.run import RunConfig
from mdt_cli.services.events import Note, Warned
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.model import load_trained
from tests.services.small_networks import DIGITS, run_of, weights_file

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


def report_of(weights: str | None) -> dict[str, Any]:
    metric = {"value": 2.0, "samples": 9, "reference": 9, "extractor": "inception"}
    drawn = (
        {} if weights is None else {"provenance": {"weights": weights, "sampler": {"steps": 20}}}
    )
    return {
        "metrics": {"fid": metric},
        "comparability": {"verdict": "not comparable"},
        "samples": drawn,
    }


def exported(source: Path, out: Path, report: Path | None = None) -> tuple[str, list[Any]]:
    """The card, and the events."""
    events = list(export(ExportRequest(source, out, license="mit", report=report)))
    return (out / "README.md").read_text(), events


def test_the_card_tells_config_data_and_scores(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    report = {
        "metrics": {
            "fid": {
                "value": 12.345678,
                "samples": 1000,
                "reference": None,
                "extractor": "inception",
            }
        },
        "comparability": {"verdict": "not comparable with published tables: too few"},
    }
    (tmp_path / "scores.json").write_text(json.dumps(report))
    options = {"license": "cc-by-4.0", "report": tmp_path / "scores.json"}
    list(export(ExportRequest(source, tmp_path / "out", **options)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlicense: "cc-by-4.0"\nlibrary_name: diffusers\n')
    for part in (
        "pipeline_tag: unconditional-image-generation",
        "| fid | 12.346 | 1,000 | - | inception |",
        "too few",
        "| classes | cat, dog, owl |",
        "hidden_size = 32",
        "maximum difference 0",
    ):
        assert part in card
    assert str(tmp_path) not in card
    config = tomllib.loads(card.partition("```toml\n")[2].partition("```")[0])
    assert RunConfig.model_validate(config) == load_trained(source, None, CPU).config
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*.*")}
    assert len(modes) == 1, "every file may be read by the same people"


def test_a_report_of_other_weights_is_told_apart(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "w.safetensors", DIGITS)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(report_of("9" * 64)))
    card, events = exported(source, tmp_path / "out", path)
    assert any(isinstance(event, Warned) and "other weights" in event.text for event in events)
    assert "| fid | 2 |" in card
    assert "9" * 64 in card


@pytest.mark.parametrize("held", ["these", "other", "unknown", "no report"])
def test_a_report_in_the_run_folder_counts_where_it_is_of_these_weights(
    tmp_path: Path, held: str
) -> None:
    run = run_of(tmp_path / "run", DIGITS)
    digests = {"these": load_trained(run, None, CPU).digest, "other": "9" * 64, "unknown": None}
    report = report_of(digests[held]) if held in digests else {"papers": []}
    (run / "report.json").write_text(json.dumps(report))
    card, events = exported(run, tmp_path / "out")
    notes = [event.text for event in events if isinstance(event, Note)]
    assert ("| fid | 2 |" in card, "Not evaluated." in card) == (held == "these", held != "these")
    wanted = {"these": None, "no report": "is not a report of mdt evaluate"}.get(
        held, "is not recorded as computed from these weights"
    )
    assert len(notes) == (wanted is not None)
    assert wanted is None or wanted in notes[0]


def test_a_report_that_merely_lies_near_the_weights_is_nobodys(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "a" / "b" / "w.safetensors", DIGITS)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        (folder / "report.json").write_text('{"papers": []}')
    card, events = exported(source, tmp_path / "out")
    assert "Not evaluated." in card
    assert not any(isinstance(event, Note) for event in events)
