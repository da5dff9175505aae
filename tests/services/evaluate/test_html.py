"""The page of a report, and several sets beside each other, from real images."""

import base64
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.events import EvaluationDone, Warned
from mdt_cli.services.inspection.inspect import inspect
from tests.pictures import class_files, png, write_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Page(HTMLParser):
    """Pictures, and every address that leads out of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[Image.Image] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                match = re.fullmatch(r"data:image/png;base64,(.+)", value or "")
                if match is None:
                    self.outside.append(value or "")
                else:
                    data = base64.b64decode(match[1])
                    self.pictures.append(Image.open(io.BytesIO(data)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def score(request: EvaluateRequest) -> tuple[dict, Page, list]:
    events = list(evaluate(request))
    done = events[-1]
    assert isinstance(done, EvaluationDone)
    text = Path(str(done.page)).read_text("utf-8")
    page = Page(text)
    assert page.outside == []
    assert page.open == []
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    return done.report, page, events


def test_the_page_shows_samples_neighbours_and_classes(tmp_path: Path, inception: Path) -> None:
    real = write_folder(tmp_path / "real", class_files(3, 5))
    files = {name.replace("/", "/s"): png(900 + k) for k, name in enumerate(class_files(3, 4))}
    copied = {"b/copy.png": (real / "b" / "002.png").read_bytes()}
    samples = write_folder(tmp_path / "<samples>", {**files, **copied})
    report, page, events = score(EvaluateRequest(samples, real, weights=inception, device="cpu"))
    assert [score["samples"] for score in sorted(report["classes"]["scores"], key=str)]
    assert "kernel distance" in report["classes"]["rule"]
    by_name = {score["name"]: score for score in report["classes"]["scores"]}
    assert {name: s["samples"] for name, s in by_name.items()} == {"a": 4, "b": 5, "c": 4}
    closest = report["nearest"]["closest"][0]
    names = sorted([*files, *copied])
    assert names[closest["sample"]] == "b/copy.png"
    assert sorted(class_files(3, 5))[closest["reference"]] == "b/002.png"
    assert report["nearest"]["identical"] == 1
    assert any("pixel for pixel" in e.text for e in events if isinstance(e, Warned))
    # The grid, the strip of pairs, and the classes with a score.
    assert len(page.pictures) == 2 + len([s for s in by_name.values() if s["value"]])
    text = (samples / "report.html").read_text("utf-8")
    assert "&lt;samples&gt;" in text
    assert "13 samples were scored, not 50,000" in text


def test_several_sets_side_by_side(tmp_path: Path, inception: Path) -> None:
    real = write_folder(tmp_path / "real", {f"{i}.png": png(i) for i in range(8)})
    near = write_folder(tmp_path / "near", {f"{i}.png": png(i + 4) for i in range(8)})
    dark = write_folder(tmp_path / "dark", {f"{i}.png": png(90) for i in range(8)})
    out = tmp_path / "all.json"
    asked = EvaluateRequest(dark, real, weights=inception, out=out, others=(near,), device="cpu")
    report, page, _ = score(asked)
    assert json.loads(out.read_text()) == report
    comparison = report["comparison"]
    assert comparison["sets"] == [str(dark), str(near)]
    assert comparison["metrics"]["fid"]["best"] == 1
    for index, path in enumerate((dark, near)):
        alone, _, _ = score(EvaluateRequest(path, real, weights=inception, device="cpu"))
        assert alone["metrics"] == report["reports"][index]["metrics"]
    assert len(page.pictures) == 4
    inspected = inspect(out)
    assert inspected.kind == "comparison of reports"
    assert list(inspected.facts["scores"]) == [str(dark), str(near)]


def test_a_class_without_samples_is_told(tmp_path: Path, inception: Path) -> None:
    real = write_folder(tmp_path / "real", class_files(3, 5))
    some = {k: v for k, v in class_files(3, 5).items() if not k.startswith("b")}
    half = write_folder(tmp_path / "half", some)
    report, _, events = score(EvaluateRequest(half, real, weights=inception, device="cpu"))
    assert any(
        "1 classes of the reference have no sample" in e.text
        for e in events
        if isinstance(e, Warned)
    )
    assert report["classes"]["scores"][-1]["name"] == "b"
    text = (half / "report.html").read_text("utf-8")
    assert "1 classes of the reference have no sample: b." in text
    assert "no sample</td>" in text
    assert report["warnings"] == [e.text for e in events if isinstance(e, Warned)]
    assert all(warning in unescape(text) for warning in report["warnings"])
    score_a = next(s for s in report["classes"]["scores"] if s["name"] == "a")
    assert f"{score_a['value']:.4g} ± {score_a['standard_error']:.2g}</td>" in text
