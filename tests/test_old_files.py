"""The files of version 0.1 (tests/fixtures) are read, resumed and finished, to the same numbers.

The numbers are those that the code of that version arrived at. They are compared to 1e-6, since the
last bits differ between processors.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from mdt_cli.cli.app import run
from mdt_cli.files import sha256_of
from tests.fixtures import v01

FACTS = json.loads((v01.FOLDER / v01.FACTS).read_text("utf-8"))
# What mdt inspect called the old files.
KINDS = {
    "cache": "latent cache",
    "cache-begun": "latent cache, unfinished",
    "latents": "latent cache",
    "runs/dit": "run",
    "runs/mcdit/checkpoints/step-0000003": "checkpoint",
    "runs/mcdit/checkpoints/step-0000003/ema-0.9.safetensors": "weights",
    "samples": "png",
    "samples-begun": "images",
    "report.json": "report",
    "reference.npz": "reference statistics",
    "imported": "imported weights",
    "exported": "diffusers folder",
}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, which the commands of a test run in."""
    folder = tmp_path / "v0.1"
    shutil.copytree(v01.FOLDER, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers copies remote code to the user's cache; tests leave that alone."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


def mdt(*words: str) -> None:
    assert run(words) == 0, words


def check(found: Any, expected: Any, name: str = "") -> None:
    """Compare nested values; numbers to 1e-6 of the larger of 1 and their size."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            check(found[key], value, f"{name}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for index, value in enumerate(expected):
            check(found[index], value, f"{name}/{index}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), name
    else:
        assert found == expected, name


@pytest.mark.parametrize("recipe", v01.RECIPES)
def test_an_interrupted_run_is_resumed(recipe: str, old: Path) -> None:
    config = old / "runs" / recipe / "config.toml"
    config.write_text(config.read_text("utf-8").replace('"/v0.1/', f'"{old}/'), "utf-8")
    mdt(*v01.train_words(recipe))
    check(v01.run_facts(old / "runs" / recipe), FACTS["runs"][recipe])
    if recipe in v01.GENERATING:
        mdt("sample", f"runs/{recipe}", "few", *v01.FEW)
        check(v01.image_facts(old / "few"), FACTS["few"][recipe])


@pytest.mark.parametrize("begun", ["cache-begun", "cache-killed"])
def test_an_unfinished_cache_is_finished(begun: str, old: Path) -> None:
    kept = (old / begun / "shard-00000.safetensors").stat().st_mtime_ns
    mdt(*v01.ENCODE, begun, *v01.SHARDS)
    assert (old / begun / "shard-00000.safetensors").stat().st_mtime_ns == kept
    check(v01.cache_facts(old / begun), FACTS["cache"])
    assert not list((old / begun).glob(".tmp-*"))


def test_finished_caches_stay_as_they_are(old: Path) -> None:
    before = {name: sha256_of(old / name / "manifest.json") for name in ("cache", "latents")}
    mdt(*v01.ENCODE, "cache", *v01.SHARDS)
    mdt("encode-latents", "images.zip", "latents", "--verify")
    assert {name: sha256_of(old / name / "manifest.json") for name in before} == before
    check(v01.cache_facts(old / "cache"), FACTS["cache"])


def test_a_finished_sample_folder_stays_and_an_unfinished_one_is_finished(old: Path) -> None:
    source, choices = v01.SAMPLES
    times = {
        file: file.stat().st_mtime_ns
        for folder in ("samples", "samples-begun")
        for file in (old / folder).glob("0*.png")
    }
    assert len(times) == 12 + 5
    for folder in ("samples", "samples-begun"):
        mdt("sample", f"runs/{source}", folder, *choices)
        check(v01.image_facts(old / folder), FACTS["samples"])
    assert {file: file.stat().st_mtime_ns for file in times} == times
    samples, begun = (
        json.loads((old / folder / "samples.json").read_text("utf-8"))
        for folder in ("samples", "samples-begun")
    )
    assert samples == begun | {"torch": samples["torch"]}


def test_old_statistics_and_reports(old: Path) -> None:
    words = (*v01.EVALUATE, "--save-reference", "again.npz", "--out", "again.json")
    mdt("evaluate", "samples", "images.zip", *words)
    check(v01.statistics_facts(old / "again.npz"), FACTS["statistics"])
    check(v01.report_facts(old / "again.json"), v01.report_facts(old / "report.json"))
    mdt("evaluate", "samples", "reference.npz", *v01.EVALUATE[:2], "--metrics", "fid")
    found = v01.report_facts(old / "samples/report.json")
    before = v01.report_facts(old / "report.json")
    assert found.keys() == {"fd_colours_80f9dd41"}
    check(found["fd_colours_80f9dd41"]["value"], before["fd_colours_80f9dd41"]["value"])
    # A report of that version is replaced like one of this version.
    mdt("evaluate", "samples", "images.zip", *v01.EVALUATE, "--out", "report.json")


def test_imported_weights_generate_the_same_and_are_imported_the_same(old: Path) -> None:
    mdt("sample", "imported", "out", *v01.IMPORT_SAMPLES)
    check(v01.image_facts(old / "out"), FACTS["imported samples"])
    mdt(*v01.IMPORT, "again", *v01.HEADS)
    again, before = (
        v01.tensor_facts(old / folder / "weights.safetensors") for folder in ("again", "imported")
    )
    assert again == before


def test_exported_folders_generate_the_same(old: Path, module_cache: None) -> None:
    check(v01.pipeline_facts("exported"), FACTS["pipeline"])
    # The report is of the samples of just these weights.
    mdt("export", f"runs/{v01.SAMPLES[0]}", "again", *v01.EXPORT)
    check(v01.pipeline_facts("again"), FACTS["pipeline"])
    scores = "| kid_colours_80f9dd41 |"
    for folder in ("exported", "again"):
        assert scores in (old / folder / "README.md").read_text("utf-8")


def test_every_old_artifact_is_recognised(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, kind in KINDS.items():
        mdt("inspect", path, "--json")
        assert json.loads(capsys.readouterr().out)["kind"] == kind
