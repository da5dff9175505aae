"""However a command of two processes ends, no thread of theirs is left to outlive Python."""

import json
import subprocess
import sys

import pytest

from tests.services.training_kit import ROOT, environment, make_cache, make_images


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("leaving")
    cache = make_cache(folder / "cache", make_images(folder / "images"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.services.train.two_ranks", str(cache), str(folder)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "codes"),
    [
        ("done", [0, 0]),
        # The other waits in a collective, whose connection the first one closes.
        ("error of one", [1, 1]),
        ("defect", [1, 1]),
        ("signal", [143, 143]),
    ],
)
def test_no_group_and_no_thread_of_one_is_left(
    ends: dict[str, list[dict]], case: str, codes: list[int]
) -> None:
    assert [end["code"] for end in ends[case]] == codes
    assert [end["group"] for end in ends[case]] == [False, False]
    assert [end["threads"] for end in ends[case]] == [0, 0]
