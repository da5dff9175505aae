"""The last stage of the quickstart: a model with its scores, or without where there are none."""

import json
import sys
from pathlib import Path

import pytest

from mdt_cli.cli.app import run
from mdt_cli.services.quickstart import stages
from tests.services.small_networks import DIGITS, run_of


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize("scored", [False, True])
def test_the_export_needs_no_scores_and_its_words_give_the_same_card(
    tmp_path: Path, scored: bool
) -> None:
    run_of(tmp_path / "finetune", DIGITS)
    if scored:
        metric = {"value": 2.0, "samples": 9, "reference": 9, "extractor": "inception"}
        report = {"metrics": {"fid": metric}, "comparability": {"verdict": "not comparable"}}
        (tmp_path / "samples").mkdir()
        (tmp_path / "samples" / "report.json").write_text(json.dumps(report))
    *_, last = stages(tmp_path)
    list(last.events())
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("| fid | 2 |" in card) == scored
    (tmp_path / "model").rename(tmp_path / "by the service")
    assert run(list(last.words)) == 0
    assert (tmp_path / "model" / "README.md").read_text() == card
