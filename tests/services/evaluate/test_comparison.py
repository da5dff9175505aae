from typing import Any

from mdt_cli.config.evaluation import lower_is_better
from mdt_cli.services.evaluate.comparison import side_by_side


def report(
    name: str, count: int = 9, jpegs: int = 0, **values: tuple[float, float]
) -> dict[str, Any]:
    return {
        "samples": {"path": name, "count": count, "jpegs": jpegs},
        "metrics": {
            key: {"value": value, "standard_error": error, "samples": count}
            for key, (value, error) in values.items()
        },
    }


def test_best_and_ties_by_the_direction_of_each_metric() -> None:
    found = side_by_side(
        [
            report("a", fid=(5.0, 0.5), precision=(0.5, 0.01), only_here=(1, 1)),
            report("b", fid=(4.5, 0.5), precision=(0.9, 0.01)),
            report("c", fid=(9.0, 0.5), precision=(0.895, 0.01)),
        ]
    )["comparison"]
    assert found["sets"] == ["a", "b", "c"]
    assert found["metrics"] == {
        "fid": {"values": [5.0, 4.5, 9.0], "best": 1, "ties_with_best": [0]},
        "precision": {"values": [0.5, 0.9, 0.895], "best": 1, "ties_with_best": [2]},
    }
    assert found["cautions"] == []


def test_other_counts_and_jpegs_are_cautioned_against() -> None:
    unmoved = {"kid_x": (1.0, 0.1), "fd_infinity_x": (4.0, 0.1), "precision_x": (0.5, 0.1)}
    moved = dict.fromkeys(("fd_x", "sfid", "cmmd", "is_x", "recall_x", "coverage_x"), (5.0, 0.1))
    values = moved | unmoved
    found = side_by_side([report("a", 9, **values), report("b", 8, 8, **values)])["comparison"]
    assert {name for name, told in found["metrics"].items() if told["best"] is None} == set(moved)
    assert "differ in size (9, 8)" in found["cautions"][0]
    assert "JPEG" in found["cautions"][1]


def test_ties_go_by_the_error_that_the_sets_do_not_share() -> None:
    both = [report("a", kid_x=(1.0, 0.5)), report("b", kid_x=(1.2, 0.5))]
    for single in both:
        single["metrics"]["kid_x"]["standard_error_of_samples"] = 0.1
    assert side_by_side(both)["comparison"]["metrics"]["kid_x"]["ties_with_best"] == [1]
    for single in both:
        single["metrics"]["kid_x"]["standard_error_of_samples"] = 0.05
    assert side_by_side(both)["comparison"]["metrics"]["kid_x"]["ties_with_best"] == []


def test_without_an_error_or_with_a_rough_limit_of_other_counts_no_best_is_named() -> None:
    both = [report("a", 9, fd_infinity_x=(1.0, 0.1)), report("b", 8, fd_infinity_x=(3.0, 0.1))]
    found = [side_by_side(both)["comparison"]["metrics"]["fd_infinity_x"]["best"]]
    both[1]["metrics"]["fd_infinity_x"]["bias"] = "too low"
    found.append(side_by_side(both)["comparison"]["metrics"]["fd_infinity_x"]["best"])
    equal = [report("a", fid=(1.0, 0.1)), report("b", fid=(3.0, 0.1))]
    equal[0]["metrics"]["fid"]["standard_error"] = None
    found.append(side_by_side(equal)["comparison"]["metrics"]["fid"]["best"])
    assert found == [0, None, None]


def test_lpips_is_a_distance_and_the_other_marks_of_a_codec_are_not() -> None:
    names = ("rfid", "rfd_x", "lpips", "psnr", "ssim")
    assert [lower_is_better(name) for name in names] == [True, True, True, False, False]
