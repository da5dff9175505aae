"""A few hundred damaged and foreign files, by the fuzz of `benchmarks/`: no reader ends in a
traceback, takes seconds or fills the memory. docs/limits.md has the counts of the full run."""

import io

import pytest

from benchmarks.fuzz import fuzz, one_input
from benchmarks.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_a_sentence(name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    told = io.StringIO()
    tally = fuzz(name, 20, seed=1, out=told)
    assert tally.faults == 0, told.getvalue()
    assert tally.read + tally.refused == 20


def test_inputs_are_those_of_their_seed() -> None:
    target = TARGETS["png"]
    first, again, other = (one_input(target, target.seeds(), 3, seed) for seed in (5, 5, 6))
    assert first == again != other
