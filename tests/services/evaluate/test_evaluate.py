import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdt_cli.cli import app
from mdt_cli.errors import MdtError
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extractors import weights
from mdt_cli.metrics.features import Limits
from mdt_cli.services.evaluate import evaluate as evaluate_module
from mdt_cli.services.evaluate import feature_shards
from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate, score
from mdt_cli.services.evaluate.plan import make_plan
from mdt_cli.services.events import EvaluationDone, Event, Note, Progress, Warned
from tests.pictures import array, encoded, png, write_folder
from tests.services.evaluate.evaluation_kit import run, told

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_all_metrics_by_inception_with_report_and_stamp(
    sets: tuple[Path, Path], inception: Path
) -> None:
    report, events = run(EvaluateRequest(*sets, weights=inception))
    assert list(report["metrics"]) == ["fid", "sfid", "is", "precision", "recall", "kid"]
    for metric in report["metrics"].values():
        assert (metric["extractor"], metric["resize"]) == ("inception", "clean")
        assert metric["samples"] == 7
        assert metric["comparable_with"] == []
    assert report["metrics"]["recall"]["reference"] == 6
    assert report["extractor"]["weights_sha256"] == weights.INCEPTION_SHA256
    assert len(report["reference"]["digest"]) == 64
    assert report["comparability"]["verdict"] == (
        "not comparable with published tables: 7 samples were scored, not 50,000"
    )
    assert "resizing is clean" in report["comparability"]["adm_tables"]["why_not"][1]
    assert json.loads((sets[0] / "report.json").read_text()) == report
    steps = [event for event in events if isinstance(event, Progress)]
    assert [step.total for step in steps] == [13] * len(steps)
    assert (steps[-1].done, steps[-1].note) == (13, "samples")
    assert "7 samples and 6 reference images are few" in told(events, Warned)
    assert "16x16 images are enlarged to 299x299" in told(events, Note)


def test_without_weights_the_default_says_why_and_names_its_numbers(
    sets: tuple[Path, Path],
) -> None:
    report, events = run(EvaluateRequest(*sets))
    assert list(report["metrics"]) == [
        "fd_efficientnet_lite0",
        "is_efficientnet_lite0",
        "precision_efficientnet_lite0",
        "recall_efficientnet_lite0",
        "kid_efficientnet_lite0",
    ]
    assert "not with published FID" in told(events, Note)
    assert "not inception" in report["comparability"]["verdict"]


def test_a_set_against_itself_is_perfect_and_told(sets: tuple[Path, Path], inception: Path) -> None:
    report, events = run(EvaluateRequest(sets[0], sets[0], weights=inception))
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-9)
    assert report["metrics"]["precision"]["value"] == report["metrics"]["recall"]["value"] == 1
    assert "the same images" in told(events, Warned)
    assert report["warnings"] == told(events, Warned).split("\n")


def test_batch_size_changes_no_byte_of_the_report(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    written = []
    for batch_size in (1, 3, 64):
        out = tmp_path / f"{batch_size}.json"
        run(EvaluateRequest(*sets, weights=inception, batch_size=batch_size, out=out))
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


def test_the_plan_decodes_no_image(
    sets: tuple[Path, Path], inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(SizedSet, "decode", decode)
    plans = []

    def planned() -> Iterator[Event]:
        plans.append((yield from make_plan(EvaluateRequest(*sets, weights=inception))))

    assert "are few for a Fréchet distance" in told(list(planned()), Warned)
    plan = plans[0]
    assert [samples.count for samples in plan.sets] == [7]
    assert plan.extracted_reference.count == 6
    assert plan.compares_rows
    assert (plan.report, plan.work) == (sets[0] / "report.json", sets[0] / "report.work")
    assert not plan.report.exists()
    with pytest.raises(AssertionError, match="an image was decoded"):
        list(evaluate(EvaluateRequest(*sets, weights=inception)))


def test_npz_and_folder_score_the_same(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", arr_0=np.stack([array(i) for i in (3, 1, 0, 2, 6, 5, 4)]))
    of_folder, _ = run(EvaluateRequest(*sets, weights=inception))
    of_npz, events = run(EvaluateRequest(tmp_path / "s.npz", sets[1], weights=inception))
    assert of_npz["samples"]["digest"] == of_folder["samples"]["digest"]
    for name, metric in of_folder["metrics"].items():
        assert of_npz["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-9)
    done = events[-1]
    assert isinstance(done, EvaluationDone)
    assert done.path == str(tmp_path / "s.report.json")


def test_precision_and_recall_look_at_a_bounded_reference(
    sets: tuple[Path, Path], inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "PUBLISHED", Limits(neighbours=5, kernel=None))
    report, _ = run(EvaluateRequest(*sets, weights=inception))
    assert report["metrics"]["precision"]["reference"] == 5
    assert report["metrics"]["fid"]["reference"] == 6


def test_a_reference_too_large_to_keep_scores_as_its_leading_rows(
    sets: tuple[Path, Path], inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = EvaluateRequest(*sets, ("fid", "sfid", "kid", "memorisation"), weights=inception)
    features_of = evaluate_module.features_of
    monkeypatch.setattr(
        evaluate_module,
        "features_of",
        lambda scored: replace(features_of(scored), limits=Limits(None, 4)),
    )
    whole, _ = run(asked)
    monkeypatch.setattr(evaluate_module, "PUBLISHED", Limits(None, 4))
    part, _ = run(asked)
    for name, metric in part["metrics"].items():
        # So few rows are decomposed themselves where all are kept, else their covariance is.
        near = 1e-9 if "fid" in name else 0
        assert metric["value"] == pytest.approx(whole["metrics"][name]["value"], rel=near, abs=0)
    assert part["metrics"]["kid"] == whole["metrics"]["kid"]
    assert part["metrics"]["kid"]["reference"] == 4
    assert part["reference"] == whole["reference"]
    assert "all 6 reference images" in whole["nearest"]["note"]
    assert "features, 4 reference images" in part["nearest"]["note"]


def test_copies_of_images_beyond_the_kept_rows_are_found(
    sets: tuple[Path, Path], inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(sets[0], {f"{7 + i:06d}.png": png(50 + i) for i in range(6)})
    monkeypatch.setattr(evaluate_module, "PUBLISHED", Limits(None, 4))
    report, _ = run(EvaluateRequest(*sets, ("fid", "memorisation"), weights=inception))
    assert report["metrics"]["memorisation"]["identical"] == 6
    pairs = {pair["sample"]: pair["reference"] for pair in report["nearest"]["closest"][:6]}
    assert pairs == {7 + i: i for i in range(6)}


def test_the_same_images_on_both_sides_are_extracted_once(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shards, "IN_MEMORY", 2)
    asked = EvaluateRequest(sets[1], sets[1], ("fid",), weights=inception, out=tmp_path / "r.json")
    report, events = run(asked)
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-8)
    assert "earlier run" not in told(events, Note)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (12, 12)


def test_names_that_are_not_utf8_are_scored_and_shown(
    inception: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(b"caf\xe9")
    sets = [
        write_folder(tmp_path / name / odd, {f"{c}/{i}.png": png(i) for i in range(6) for c in odd})
        for name in ("samples", "real")
    ]
    words = ["evaluate", *map(str, sets), "--weights", str(inception), "--metrics", "fid,kid"]
    assert app.run([*words, "--extractor", "inception"]) == 0
    assert "caf" in capsys.readouterr().out
    written = json.loads((sets[0] / "report.json").read_text("utf-8"))
    assert written["samples"]["path"] == str(sets[0])
    assert "\\xe9" in written["classes"]["names"]["samples"]
    assert "caf\\udce9" in (sets[0] / "report.html").read_text("utf-8")


def test_very_long_images_have_a_page(inception: Path, tmp_path: Path) -> None:
    sets = [
        write_folder(tmp_path / str(first), {f"{i}.png": png(first + i, 1, 400) for i in range(6)})
        for first in (0, 50)
    ]
    run(EvaluateRequest(*sets, metrics=("fid",), weights=inception))
    assert (sets[0] / "report.html").is_file()


def test_features_that_another_evaluation_removes_are_made_again(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shards, "IN_MEMORY", 2)
    monkeypatch.setattr(feature_shards, "ROWS", 2)
    asked = EvaluateRequest(*sets, weights=inception, out=tmp_path / "r.json", device="cpu")
    straight, _ = run(asked)
    events = []
    for event in evaluate(asked):
        events.append(event)
        if isinstance(event, Progress) and event.done == event.total:
            # Of the shards in its folder, and of those of an evaluation that still runs.
            other = write_folder(tmp_path / "r.work" / "other", {"features-00000.json": b"{}"})
            for folder in (tmp_path / "r.work").iterdir():
                if folder != other:
                    shutil.rmtree(folder)
    assert "4 shards of" in told(events, Warned)
    assert json.loads((tmp_path / "r.json").read_text()) == straight
    assert [path.name for path in (tmp_path / "r.work").iterdir()] == ["other"]


def test_provenance_travels_without_its_long_lists(
    sets: tuple[Path, Path], inception: Path
) -> None:
    facts = {"sampler": "ddim", "steps": 50, "seeds": list(range(5000))}
    (sets[0] / "samples.json").write_text(json.dumps(facts))
    report, _ = run(EvaluateRequest(*sets, metrics=("kid",), weights=inception))
    assert report["samples"]["provenance"] == {
        "sampler": "ddim",
        "steps": 50,
        "seeds": "see samples.json",
    }


def test_jpeg_samples_are_warned_of(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    files = {f"{i}.jpg": encoded(Image.fromarray(array(i)), "JPEG") for i in range(4)}
    folder = write_folder(tmp_path / "jpeg", files)
    report, events = run(EvaluateRequest(folder, sets[1], metrics=("fid",), weights=inception))
    assert "4 samples are JPEG" in told(events, Warned)
    assert "4 samples are JPEG" in str(report["comparability"])
    assert report["samples"]["jpegs"] == 4
    assert any("4 samples are JPEG" in text for text in report["warnings"])
    page = (folder / "report.html").read_text("utf-8")
    assert all(escape(text) in page for text in report["warnings"])


def test_jpeg_beside_png_is_cautioned_against(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    files = {f"{i}.jpg": encoded(Image.fromarray(array(i)), "JPEG") for i in range(7)}
    jpeg = write_folder(tmp_path / "jpeg", files)
    request = EvaluateRequest(*sets, metrics=("fid",), weights=inception, out=tmp_path / "c.json")
    both, _ = run(replace(request, others=(jpeg,)))
    assert ["JPEG" in text for text in both["comparison"]["cautions"]] == [True]
    assert ["JPEG" in str(single["warnings"]) for single in both["reports"]] == [False, True]
    same, _ = run(replace(request, samples=jpeg, others=(jpeg,)))
    assert same["comparison"]["cautions"] == []


def test_refusals_come_before_the_first_image(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    samples, reference = sets
    one = write_folder(tmp_path / "one", {"a.png": png(0)})
    three = write_folder(tmp_path / "three", {f"{i}.png": png(i) for i in range(3)})
    small = write_folder(tmp_path / "small", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    asked = EvaluateRequest(samples, reference, weights=inception)
    cases = [
        (replace(asked, samples=one), "one holds 1 image; no metric is defined below 2"),
        (replace(asked, reference=three), "precision and recall need at least 4"),
        (replace(asked, samples=small), "small holds 8x8 images, but .*real is of 16x16"),
        (replace(asked, extractor="efficientnet-lite0"), "--weights names an Inception file"),
        (replace(asked, batch_size=0), "--batch-size is 0"),
        (replace(asked, out=samples), "it is a folder"),
        (replace(asked, save_reference=tmp_path / "ref"), r"name it .*ref\.npz"),
        (
            replace(
                asked,
                reference=inception.with_suffix(".npz"),
                save_reference=inception.parent / "." / "stand-in.npz",
            ),
            "the reference itself",
        ),
        (replace(asked, out=inception / "r.json"), "stand-in.pt is not a folder"),
        (replace(asked, out=Path("/proc/mdt/r.json")), "cannot write /proc/mdt: "),
        (replace(asked, out=tmp_path / ("r" * 300)), "File name too long"),
        (replace(asked, save_reference=Path("/proc/mdt/r.npz")), "cannot write /proc/mdt/r.npz"),
        (replace(asked, out=tmp_path / "r.html"), "r.html is the name of the page"),
        (replace(asked, out=tmp_path / "r.work"), "r.work is the name of the folder for features"),
        (
            replace(
                asked, weights=None, extractor="efficientnet-lite0", resize="legacy_tensorflow"
            ),
            "belongs to the Inception graph",
        ),
    ]
    for request, message in cases:
        with pytest.raises(MdtError, match=message):
            run(request)
    assert not (samples / "report.json").exists()
    few, _ = run(replace(asked, reference=three, metrics=("fid", "kid")))
    assert list(few["metrics"]) == ["fid", "kid"]


def test_a_broken_image_ends_the_run_without_a_report(
    sets: tuple[Path, Path], inception: Path
) -> None:
    (sets[0] / "000003.png").write_bytes(png(3)[:-50])
    with pytest.raises(MdtError, match=r"000003.png cannot be read"):
        run(EvaluateRequest(*sets, weights=inception))
    assert sorted(path.name for path in sets[0].iterdir()) == [f"{i:06d}.png" for i in range(7)]


def test_score_is_the_report(sets: tuple[Path, Path]) -> None:
    report = score(*sets, extractor="efficientnet-lite0", metrics=("kid",))
    assert list(report["metrics"]) == ["kid_efficientnet_lite0"]
    assert json.loads((sets[0] / "report.json").read_text()) == report
