"""References of every origin, and the verdict on what the numbers may be compared with."""

import pickle
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdt_cli.cli.app import run as run_command
from mdt_cli.config.evaluation import RESIZES
from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.services.evaluate.evaluate import EvaluateRequest
from mdt_cli.services.events import Note, Warned
from tests.pictures import array, png, write_folder
from tests.services.evaluate.evaluation_kit import run, told

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
COUNT = "mdt_cli.metrics.comparability.PUBLISHED_COUNT"


def test_saved_statistics_give_the_same_fid_and_refuse_the_rest(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "ref.npz"
    whole, _ = run(EvaluateRequest(*sets, weights=inception, save_reference=saved))
    again, events = run(EvaluateRequest(sets[0], saved, weights=inception))
    assert list(again["metrics"]) == ["fid", "sfid", "is"]
    for name in ("fid", "sfid"):
        expected = whole["metrics"][name]["value"]
        assert again["metrics"][name]["value"] == pytest.approx(expected, rel=1e-10)
    assert again["reference"]["digest"] == whole["reference"]["digest"]
    assert "holds statistics only" in told(events, Note)
    with pytest.raises(MdtError, match="recall, kid need the images of the reference"):
        run(EvaluateRequest(sets[0], saved, metrics=("fid", "recall", "kid")))
    with pytest.raises(
        MdtError, match="was computed with inception, but the extractor is efficient"
    ):
        run(EvaluateRequest(sets[0], saved, extractor="efficientnet-lite0"))
    with pytest.raises(MdtError, match="was computed with clean resizing"):
        run(EvaluateRequest(sets[0], saved, weights=inception, resize="legacy_tensorflow"))
    with pytest.raises(MdtError, match="nothing to save"):
        run(EvaluateRequest(sets[0], saved, weights=inception, save_reference=tmp_path / "x.npz"))
    small = write_folder(tmp_path / "small", {f"{i}.png": png(i, 8, 8) for i in range(4)})
    with pytest.raises(MdtError, match=r"small holds 8x8 images, but .*ref.npz is of 16x16"):
        run(EvaluateRequest(small, saved, weights=inception))


def test_statistics_of_unknown_origin_are_told_and_stamped(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, mu=np.zeros(64), sigma=np.eye(64))
    asked = EvaluateRequest(sets[0], foreign, metrics=("fid",), weights=inception)
    with pytest.raises(MdtError, match="does not record its resize mode") as refused:
        run(asked)
    for source, rule in (
        ("EDM, EDM2, MaskDiT", "legacy_tensorflow"),
        ("pytorch-fid", "legacy_pytorch"),
        ("clean-fid", "clean"),
    ):
        assert source in str(refused.value.hint)
        assert f"--resize {rule} " in str(refused.value.hint)
    values = set()
    for resize in RESIZES:
        report, events = run(replace(asked, resize=resize))
        assert report["extractor"]["resize"] == resize
        assert f"does not record its resize mode; assuming {resize} as given by --resize" in told(
            events, Warned
        )
        values.add(report["metrics"]["fid"]["value"])
    assert len(values) == 3
    assert "does not record how it was computed" in str(report["comparability"]["clean_fid_tables"])
    np.savez(foreign, mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(MdtError, match="statistics of 5 features, but inception gives 64"):
        run(replace(asked, resize="clean"))
    with pytest.raises(MdtError, match="it is taken for Inception's"):
        run(EvaluateRequest(sets[0], foreign, extractor="efficientnet-lite0"))
    about = {"extractor": "efficientnet-lite0", "resize": "legacy_pytorch"}
    np.savez(foreign, mu=np.zeros(1280), sigma=np.eye(1280), **about)
    with pytest.raises(MdtError, match="was computed with legacy_pytorch resizing") as refused:
        run(EvaluateRequest(sets[0], foreign))
    assert "--save-reference" in str(refused.value.hint)


def test_an_adm_file_serves_its_statistics_for_fid_and_its_images_for_the_rest(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adm = tmp_path / "VIRTUAL.npz"
    images = np.stack([array(50 + i) for i in range(6)])
    np.savez(
        adm,
        arr_0=images,
        mu=np.zeros(64),
        sigma=np.eye(64),
        mu_s=np.zeros(2023),
        sigma_s=np.eye(2023),
        # A claim of a home-made file, which is not its digest.
        digest=np.array("5eed" * 16),
    )
    with pytest.raises(MdtError, match="computed with legacy_tensorflow resizing") as refused:
        run(EvaluateRequest(sets[0], adm, weights=inception))
    assert refused.value.hint == "use --resize legacy_tensorflow"
    request = EvaluateRequest(sets[0], adm, weights=inception, resize="legacy_tensorflow")
    report, _ = run(request)
    by_images, _ = run(replace(request, reference=sets[1]))
    assert report["metrics"]["fid"]["value"] > 2 * by_images["metrics"]["fid"]["value"]
    assert report["metrics"]["sfid"]["value"] > 2 * by_images["metrics"]["sfid"]["value"]
    assert report["metrics"]["sfid"]["rule"].startswith("first 7 channels")
    for name in ("precision", "recall", "kid"):
        assert report["metrics"][name]["value"] == by_images["metrics"][name]["value"]
    assert report["comparability"]["adm_tables"]["why_not"] == ["7 samples were scored, not 50,000"]
    monkeypatch.setattr("mdt_cli.metrics.comparability.PUBLISHED_COUNT", 7)
    report, _ = run(request)
    assert report["metrics"]["fid"]["comparable_with"] == ["ADM"]
    assert report["metrics"]["sfid"]["comparable_with"] == ["ADM"]
    assert report["metrics"]["kid"]["comparable_with"] == []
    verdict = report["comparability"]["verdict"]
    assert verdict.startswith("fid, sfid, is, precision, recall may stand beside published ADM tab")
    digest = sha256_of(adm)
    assert report["reference"]["stored_statistics_sha256"] == digest
    assert "names this very reference file, known here by its arrays' names alone" in verdict
    assert f"(SHA-256 {digest[:16]}...)" in verdict
    assert "float16" in verdict
    assert f"SHA-256 {digest}" in (sets[0] / "report.html").read_text("utf-8")
    # Its images serve, its statistics do not, and it is the same file.
    asked = replace(request, metrics=("precision",))
    report, _ = run(asked)
    assert report["comparability"]["adm_tables"]["comparable"]
    assert report["reference"]["stored_statistics_sha256"] == digest
    with pytest.raises(MdtError, match="whose tables resize by legacy_tensorflow, but samples"):
        run(replace(asked, resize=None))
    report, _ = run(replace(asked, resize="clean"))
    assert report["comparability"]["adm_tables"]["why_not"] == [
        "resizing is clean, those tables use legacy_tensorflow"
    ]
    with pytest.raises(MdtError, match=r"VIRTUAL.npz already holds statistics"):
        run(replace(request, save_reference=tmp_path / "ref.npz"))


def test_the_verdict_is_of_the_metrics_that_are_there(
    sets: tuple[Path, Path], inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(COUNT, 7)
    asked = EvaluateRequest(*sets, metrics=("is", "precision", "recall"), weights=inception)
    report, _ = run(asked)
    assert report["comparability"]["verdict"].startswith("not comparable with published tables")
    told_why = report["comparability"]["clean_fid_tables"]
    assert told_why["comparable"] is False
    assert told_why["why_not"] == ["of fid, kid in those tables none was computed"]
    report, _ = run(replace(asked, metrics=("kid", "is", "fid")))
    assert report["comparability"]["verdict"] == (
        "fid, kid may stand beside published clean-fid tables, provided that the table names the "
        "same reference images at the same resolution"
    )
    assert report["metrics"]["is"]["comparable_with"] == []


def test_side_by_side_each_set_has_its_verdict_where_they_differ(
    sets: tuple[Path, Path],
    inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(COUNT, 7)
    few = write_folder(tmp_path / "few", {f"{i}.png": png(20 + i) for i in range(5)})
    words = ["--weights", inception, "--metrics", "fid", "--out", tmp_path / "all.json"]
    for others, expected in (
        ([sets[0], few], [f"{sets[0]}: fid may stand", f"{few}: not comparable with published"]),
        ([sets[0], sets[0]], ["fid may stand beside published clean-fid"]),
    ):
        done = run_command(["evaluate", *map(str, [*others, sets[1], *words, "--device", "cpu"])])
        lines = capsys.readouterr().out.splitlines()
        assert done == 0
        found = [line for line in lines if "may stand" in line or "not comparable" in line]
        assert len(found) == len(expected)
        for line, begin in zip(found, expected, strict=True):
            assert line.startswith(begin)


@pytest.mark.parametrize("rule", RESIZES)
def test_the_name_of_clean_fids_files_tells_their_rule(
    sets: tuple[Path, Path],
    inception: Path,
    tmp_path: Path,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(COUNT, 7)
    file = tmp_path / f"cifar10_{rule}_train_32.npz"
    np.savez(file, mu=np.zeros(64), sigma=np.eye(64))
    asked = EvaluateRequest(sets[0], file, weights=inception)
    report, events = run(asked)
    assert report["extractor"]["resize"] == rule
    assert told(events, Warned).count("which resizing") == 0
    verdict = report["comparability"]["verdict"]
    if rule == "clean":
        assert f"is what its name says (SHA-256 {sha256_of(file)[:16]}...)" in verdict
        assert report["reference"]["digest"] == sha256_of(file)
    else:
        assert verdict.startswith("not comparable")
    other = next(name for name in RESIZES if name != rule)
    with pytest.raises(MdtError, match=f"was computed with {rule} resizing"):
        run(replace(asked, resize=other))
    file.rename(tmp_path / f"cifar10_{rule}_clip_vit_b_32_train_32.npz")
    with pytest.raises(MdtError, match="does not record its resize mode"):
        run(replace(asked, reference=tmp_path / f"cifar10_{rule}_clip_vit_b_32_train_32.npz"))


def conversions(refused: MdtError) -> list[str]:
    """The command lines in the hint about a pickle."""
    lines = [line.strip() for line in str(refused.hint).splitlines()]
    return [line for line in lines if line.startswith("python -c ")]


def test_the_lines_that_convert_edm2s_files_work_as_they_stand(
    sets: tuple[Path, Path], inception: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    # As wide as ViT-L/14, so that it bears the published name; one block of it.
    config = transformers.Dinov2Config(
        hidden_size=1024, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=56
    )
    folder = tmp_path / 'it\'s "here"'
    transformers.Dinov2Model(config).save_pretrained(folder / "dino")
    asked = {
        "fid": EvaluateRequest(
            *sets, metrics=("fid",), weights=inception, resize="legacy_tensorflow"
        ),
        "fd_dinov2": EvaluateRequest(
            *sets, metrics=("fid",), extractor="dinov2", weights=folder / "dino"
        ),
    }
    held: dict[str, Any] = {"num_images": 6}
    values = {}
    for entry, request in asked.items():
        report, _ = run(replace(request, save_reference=tmp_path / f"{entry}.npz"))
        with np.load(tmp_path / f"{entry}.npz") as saved:
            held[entry] = {"mu": saved["mu"], "sigma": saved["sigma"]}
        values[entry] = report["metrics"][entry]["value"]
    (folder / "img64.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(MdtError, match="is a pickle") as refused:
        run(replace(asked["fid"], reference=folder / "img64.pkl"))
    for line in conversions(refused.value):
        subprocess.run(line, shell=True, check=True, timeout=60)
    for entry, name in (("fid", "inception"), ("fd_dinov2", "dinov2")):
        request = replace(asked[entry], reference=folder / f"img64-{name}.npz", resize=None)
        report, _ = run(request)
        assert report["metrics"][entry]["value"] == pytest.approx(values[entry], rel=1e-9)
        assert report["metrics"][entry]["reference"] == 6
    assert "not inception (tables of FD-DINOv2 round" in report["comparability"]["verdict"]
