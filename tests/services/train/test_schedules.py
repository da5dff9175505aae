"""Another number of steps never bends the schedules of a run on its way without a word."""

import re
import shutil
from pathlib import Path

import pytest

from mdt_cli.config.load import Loaded, load_config
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.errors import MdtError
from mdt_cli.services.train.settings import pretrain_config
from tests.services.training_kit import digests, log_of, make_cache, make_images, run, small

COSINE = ("lr_schedule.kind=cosine", "lr_schedule.warmup=2")
RATIO = ('masking.ratio={kind="cosine_decay", start=0.5, end=0.0, power=1}',)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedules")
    return make_cache(folder / "cache", make_images(folder / "images"))


@pytest.fixture(scope="module")
def begun(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedules") / "run"
    run(cache, folder, small(8, *COSINE))
    return folder


def again(folder: Path, *words: str) -> Loaded:
    return pretrain_config(folder, [], list(words))


def advised(error: MdtError) -> list[list[str]]:
    """The two ways, as the words of --set."""
    first, second = str(error.hint).split("; or ")
    return [re.findall(r"--set ([\w.]+=[\w.]+)", way) for way in (first, second)]


def test_more_steps_under_a_cosine_are_refused_with_the_two_ways(
    cache: Path, begun: Path, tmp_path: Path
) -> None:
    with pytest.raises(MdtError, match=r"learning rate of this run depends.*was 8") as caught:
        run(cache, begun, again(begun, "training.steps=12"))
    keep, accept = advised(caught.value)
    rates = {}
    for name, way in (("keep", keep), ("accept", accept)):
        folder = tmp_path / name
        shutil.copytree(begun, folder)
        run(cache, folder, again(folder, "training.steps=12", *way))
        rates[name] = [entry["lr"] for entry in log_of(folder)]
        # The same command again, and the run by itself, go on without a word.
        run(cache, folder, again(folder, "training.steps=12", *way))
        run(cache, folder, again(folder))
        assert (
            "# changed after step 8: training.schedule_steps: 0 -> "
            in (folder / "config.toml").read_text()
        )
    assert rates["keep"][8:] == pytest.approx([1e-4] * 4)
    wanted = [1e-3 * lr_factor(step, 12, 2, "cosine", 0.0) for step in range(8, 12)]
    assert rates["accept"][8:] == pytest.approx(wanted)


def test_a_tail_that_has_a_rate_needs_one_key(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(6, *COSINE, "lr_schedule.final=0.05"))
    with pytest.raises(MdtError) as caught:
        run(cache, tmp_path / "run", again(tmp_path / "run", "training.steps=8"))
    keep, _ = advised(caught.value)
    assert keep == ["training.schedule_steps=6"]
    run(cache, tmp_path / "run", again(tmp_path / "run", "training.steps=8", *keep))
    assert [entry["lr"] for entry in log_of(tmp_path / "run")][6:] == pytest.approx([5e-5] * 2)


def test_fewer_steps_are_refused_too_and_the_curve_can_stay(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "plain", small(8, *COSINE))
    folder = tmp_path / "run"
    run(cache, folder, small(8, *COSINE, "checkpoint.every=4"))
    shutil.rmtree(folder / "checkpoints" / "step-0000008")
    with pytest.raises(MdtError) as caught:
        run(cache, folder, again(folder, "training.steps=6"))
    keep, _ = advised(caught.value)
    run(cache, folder, again(folder, "training.steps=6", *keep))
    rates = [entry["lr"] for entry in log_of(folder)]
    assert rates == [entry["lr"] for entry in log_of(tmp_path / "plain")][:6]


def test_a_mask_ratio_that_follows_the_steps_is_a_schedule_too(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(cache, folder, small(6, *RATIO))
    with pytest.raises(MdtError, match="the mask ratio of this run depends") as caught:
        run(cache, folder, again(folder, "training.steps=9"))
    keep, accept = advised(caught.value)
    assert keep == ["training.schedule_steps=6"]
    run(cache, folder, again(folder, "training.steps=9", *keep))
    ratios = [entry["mask_ratio"] for entry in log_of(folder)]
    assert ratios[6:] == [ratios[5]] * 3
    assert accept == ["training.schedule_steps=9"]


def test_a_constant_rate_asks_nothing(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", small(3))
    run(cache, tmp_path / "run", again(tmp_path / "run", "training.steps=5"))
    run(cache, tmp_path / "plain", small(5))
    assert digests(tmp_path / "run", 5) == digests(tmp_path / "plain", 5)


def test_without_a_checkpoint_nothing_can_be_bent(cache: Path, begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run(cache, tmp_path / "run", again(tmp_path / "run", "training.steps=3"))
    run(cache, tmp_path / "plain", small(3, *COSINE))
    assert digests(tmp_path / "run", 3) == digests(tmp_path / "plain", 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.schedule_steps=5"], "training.schedule_steps has no effect"),
        (["lr_schedule.kind=cosine", "lr_schedule.tail=0.1"], "lr_schedule.tail has no effect"),
        (["lr_schedule.kind=cosine", "training.schedule_steps=5"], "set lr_schedule.tail"),
    ],
)
def test_keys_without_effect_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(MdtError, match=said):
        load_config(["dit"], words)
