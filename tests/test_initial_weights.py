"""New runs start from recorded weights: those of version 0.1, but for three recipes.

The patch convolution of U-ViT and MaskDM, and the bias of LMD's, start as in their official code,
as they did not in version 0.1; LMD also has the decoder of its paper.

Names, shapes, their order and the random numbers that fill them are a file format: the optimizer's
file numbers parameters by position, and a published seed stands for its weights. The tests only
read the numbers (`tests/golden/initial_networks.py` says how they were written).
"""

import json
import math
from typing import Any

import pytest

from mdt_cli.config import presets
from tests.golden.initial_networks import (
    GOLDEN,
    STARTS,
    Start,
    described,
    initial_parameters,
    processor,
)

WRITTEN = json.loads(GOLDEN.read_text("utf-8"))
# Relative to a bound on the sum of absolute values, on processors without a record.
RELATIVE = 1e-6
OVERLAYS = {"unmasked", "digits", "digits-finetune", "cifar10"} | {
    f"lmd-{schedule}" for schedule in ("piecewise", "uniform", "constant")
}
# Not in 0.1, so there are no weights of it to keep to.
NEW = {"modern", "tread", "lightningdit", "jit"}


def check_close(name: str, found: list[Any], wanted: list[Any]) -> None:
    """Shape, sum, norm and tilt of one tensor."""
    assert found[0] == wanted[0], f"{name}: shape {found[0]}, {wanted[0]} by 0.1"
    allowed = RELATIVE * max(1.0, math.sqrt(math.prod(wanted[0]))) * wanted[3] + 1e-12
    for what, one, other in zip(("sum", "norm", "tilt"), found[2:], wanted[2:], strict=True):
        assert abs(one - other) <= allowed, f"{name}: {what} {one}, {other} by 0.1"


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
def test_a_run_starts_from_the_weights_of_0_1(start: Start) -> None:
    found = described(initial_parameters(start.presets), start.tensors)
    exact = WRITTEN.get(processor())
    wanted = (exact or WRITTEN["AVX2"])[start.name]
    if start.tensors:
        assert list(found["tensors"]) == list(wanted["tensors"])
        for name, row in wanted["tensors"].items():
            check_close(name, found["tensors"][name], row)
            if exact:
                assert found["tensors"][name][1] == row[1], f"{name} has other bits than by 0.1"
    else:
        assert found["count"] == wanted["count"]
    if exact:
        assert found["sha256"] == wanted["sha256"]


def test_both_records_agree_but_for_the_last_bits() -> None:
    """The tolerance for other processors holds between the two that are recorded."""
    one, other = WRITTEN["DEFAULT"], WRITTEN["AVX2"]
    assert one.keys() == other.keys() == {start.name for start in STARTS}
    for start in STARTS:
        if start.tensors:
            first, second = one[start.name]["tensors"], other[start.name]["tensors"]
            assert list(first) == list(second)
            for name, row in second.items():
                check_close(name, first[name], row)


def test_every_recipe_has_a_record() -> None:
    recorded = {preset for start in STARTS for preset in start.presets}
    assert {n for n in presets.names() if not n.startswith("size/")} - OVERLAYS - NEW <= recorded
