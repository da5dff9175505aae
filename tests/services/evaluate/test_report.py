"""Rows of features are in the order of digests, classes in reading order: who is who."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdt_cli.images.archives import FolderReader
from mdt_cli.images.image_set import Found, make_set
from mdt_cli.images.labels import from_values
from mdt_cli.images.sized import SizedSet
from mdt_cli.metrics.extract import Extracted
from mdt_cli.metrics.statistics import Statistics
from mdt_cli.services.evaluate import report as report_module
from mdt_cli.services.evaluate.report import class_section, missing_classes, nearest_section

CPU = torch.device("cpu")
NOTHING = Statistics(torch.zeros(2), torch.eye(2), "")


def image_set(classes: str) -> SizedSet:
    found = [Found(f"{k}.png", f"{k}.png", "") for k in range(len(classes))]
    listed = make_set(
        Path("x"),
        "folder",
        FolderReader(Path("x")),
        found,
        lambda: from_values(list(classes), None, "x"),
        {},
    )
    return SizedSet(listed, (8, 8))


def extracted(rows: list[list[float]], positions: list[int]) -> Extracted:
    return Extracted(NOTHING, torch.tensor(rows), torch.tensor(positions))


def test_classes_follow_their_images_through_the_order_of_digests() -> None:
    # In reading order the samples are a a b b; the rows of their features are b a b a.
    samples = extracted([[9.0, 9.1], [0.0, 0.1], [9.2, 9.0], [0.1, 0.0]], [2, 0, 3, 1])
    reference = extracted([[0.0, 0.1], [0.1, 0.0], [0.0, 0.2], [0.1, 0.1]], [0, 1, 2, 3])
    found = class_section(image_set("aabb"), samples, image_set("abab"), reference, "net", CPU)
    assert found is not None
    values = {score["name"]: score["value"] for score in found["scores"]}
    assert values["b"] > 100
    assert abs(values["a"]) < 0.1
    assert found["scores"][0]["name"] == "b"
    assert "features of net" in found["rule"]


def test_classes_that_no_sample_has() -> None:
    samples = extracted([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    reference = extracted([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], [0, 1, 2])
    found = class_section(image_set("aa"), samples, image_set("aab"), reference, "net", CPU)
    assert found is not None
    assert missing_classes(found) == ["b"]
    other = class_section(image_set("cc"), samples, image_set("aab"), reference, "net", CPU)
    assert other is None


def test_a_copy_leads_the_pairs_though_only_a_part_was_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report_module, "MOST_DISTANCES", 4)
    samples = replace(extracted([[0.0, 0.0], [5.0, 5.0]], [1, 0]), digests=(b"s", b"r3"))
    reference = replace(
        extracted([[0.0, 0.1], [9.0, 9.0], [5.0, 5.0]], [2, 0, 1]), digests=(b"r1", b"r2", b"r3")
    )
    found = nearest_section(samples, reference, "net", CPU, 1 << 20)
    assert found is not None
    assert "features, 2 reference images" in found["note"]
    assert found["identical"] == 1
    pairs = [(pair["sample"], pair["reference"]) for pair in found["closest"]]
    assert pairs == [(0, 1), (1, 2)]


def test_classes_of_a_reference_that_is_kept_in_part() -> None:
    samples = extracted([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    reference = extracted([[0.0, 1.0], [1.0, 0.0]], [3, 0])
    found = class_section(image_set("aa"), samples, image_set("aaba"), reference, "net", CPU)
    assert found is not None
    assert [(score["name"], score["reference"]) for score in found["scores"]] == [("a", 2)]
    assert "2 of 4 reference images" in found["rule"]
    assert missing_classes(found) == ["b"]


def test_pairs_are_named_by_their_places() -> None:
    samples = extracted([[5.0, 5.0], [0.0, 0.0]], [1, 0])
    reference = extracted([[9.0, 9.0], [0.0, 0.1], [7.0, 5.0]], [2, 0, 1])
    found = nearest_section(samples, reference, "net", CPU, 1 << 20)
    assert found is not None
    pairs = [(pair["sample"], pair["reference"]) for pair in found["closest"]]
    assert pairs == [(0, 0), (1, 1)]
    assert "all 3 reference images" in found["note"]
