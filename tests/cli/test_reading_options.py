"""encode-latents, evaluate and inspect read a set by the same rules and the same options."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.cli.app import run
from mdt_cli.services.evaluate.evaluate import EvaluateRequest
from mdt_cli.services.events import Warned
from mdt_cli.services.reading import reading_of
from tests.pictures import png, write_folder
from tests.services.evaluate.evaluation_kit import run as evaluated
from tests.services.evaluate.evaluation_kit import told

FLAT = {f"{k}.png": png(k) for k in range(4)}
SPLITS = {f"{s}/{c}/{k}.png": png(k) for s in ("Training", "Testing") for c in "ab" for k in (0, 1)}
ROWS = "\n".join(f"{name},{k % 2}" for k, name in enumerate(FLAT))


@pytest.fixture(autouse=True)
def _no_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-weights"))


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run([str(word) for word in words]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    return said.err


def test_an_unclear_set_is_refused_by_each_command_and_read_as_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unclear = write_folder(tmp_path / "in", SPLITS)
    flat = write_folder(tmp_path / "flat", FLAT)
    encode = ("encode-latents", unclear, tmp_path / "cache", "--size", 16, "--workers", 0)
    said = [
        refused(capsys, *encode),
        refused(capsys, *encode, "--unconditional"),
        refused(capsys, "inspect", unclear),
        refused(capsys, "evaluate", flat, unclear, "--metrics", "kid"),
        refused(capsys, "evaluate", "--reconstruction", unclear, "pixels"),
    ]
    for text in said:
        assert "holds splits (Testing, Training)" in text
        assert "--only 'Training/*'" in text
    as_samples = refused(capsys, "evaluate", unclear, flat, "--metrics", "kid")
    assert "--samples-only 'Training/*'" in as_samples
    assert not (tmp_path / "cache").exists()
    advice = re.search(r"--only '[^']+'", said[0])
    assert advice is not None
    assert run([*map(str, encode), *shlex.split(advice[0])]) == 0
    assert open_cache(tmp_path / "cache").facts.class_counts == (2, 2)
    capsys.readouterr()
    assert run(["inspect", str(unclear), "--json", *shlex.split(advice[0])]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"a": 2, "b": 2}


def test_labels_of_a_list_in_each_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_folder(tmp_path / "in", FLAT)
    listed = tmp_path / "list.csv"
    listed.write_text(f"file,label\n{ROWS}", "utf-8")
    options = ("--labels", str(listed))
    encode = ("encode-latents", str(path), str(tmp_path / "cache"), "--size", "16", "--workers=0")
    assert run([*encode, *options]) == 0
    facts = open_cache(tmp_path / "cache").facts
    assert (facts.class_names, facts.class_counts) == (("0", "1"), (2, 2))
    assert "classes are those of" in capsys.readouterr().err
    assert run(["inspect", str(path), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"0": 2, "1": 2}
    samples = write_folder(tmp_path / "s", {f"{k % 2}/{k}.png": png(9 + k) for k in range(4)})
    request = EvaluateRequest(samples, path, ("kid",), out=tmp_path / "r.json")
    report, _ = evaluated(
        EvaluateRequest(
            samples, path, ("kid",), out=tmp_path / "r.json", reading=reading_of(None, listed)
        )
    )
    assert sorted(score["name"] for score in report["classes"]["scores"]) == ["0", "1"]
    (path / "list.csv").write_bytes(listed.read_bytes())
    _, events = evaluated(request)
    assert "list.csv names its images" in told(events, Warned)
    assert f"--labels {path}/list.csv" in told(events, Warned)


def test_options_that_have_nothing_to_read_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_folder(tmp_path / "in", {f"{c}/{k}.png": png(k) for c in "ab" for k in (0, 1)})
    cache = tmp_path / "cache"
    encode = ("encode-latents", path, cache, "--size", 16, "--workers", 0)
    labels = tmp_path / "list.csv"
    labels.write_text("file,label\n", "utf-8")
    cases = {
        ("--label-column", "x"): "no table of labels",
        ("--file-column", "x"): "no table of labels",
        ("--labels", labels, "--label-before", "_"): "both say where the classes are",
        ("--label-before", "_", "--label-column", "x"): "which have no columns",
        ("--labels", labels, "--unconditional"): "cannot be combined with --unconditional",
        ("--labels", tmp_path): "cannot be read",
        ("--only", "c/*"): "names none of the 4 images",
    }
    for words, message in cases.items():
        assert message in refused(capsys, *encode, *words)
    assert not cache.exists()
    assert run([str(word) for word in encode]) == 0
    for words in (("--only", "*"), ("--labels", labels)):
        assert "images and classes are fixed" in refused(
            capsys, "evaluate", path, cache, "--metrics", "kid", *words
        )
        assert "no set of images" in refused(capsys, "inspect", cache, *words)
    assert "needs --reconstruct" in refused(capsys, "sample", cache, tmp_path / "o", "--only", "*")
    assert "does not go with --reconstruction" in refused(
        capsys, "evaluate", "--reconstruction", path, "pixels", "--labels", labels
    )
