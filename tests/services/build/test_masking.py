"""Selectors and ratio schedules in real runs: they train, they resume, misfits are told."""

import math
import shutil
from pathlib import Path
from typing import get_args

import pytest

from mdt_cli.config.load import load_config
from mdt_cli.config.masking import (
    MaskingConfig,
    RandomBlocksConfig,
    RandomTokensConfig,
    SelectorConfig,
)
from mdt_cli.core.masking.ratio import PiecewiseRatio
from mdt_cli.errors import MdtError
from mdt_cli.services.build.masking import build_selector
from mdt_cli.services.build.ratio import build_mask_ratio
from mdt_cli.services.train.cost import plan
from tests.services.training_kit import digests, log_of, make_cache, make_images, run, small


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masking")
    return make_cache(folder / "cache", make_images(folder / "images"))


def test_a_bare_word_is_a_selector_and_kinds_have_their_own_keys() -> None:
    assert (
        load_config(["mdtv2"], ["masking.selector=random"]).config.masking.selector
        == RandomTokensConfig()
    )
    block = load_config(
        ["mdtv2"], ['masking.selector={kind="block", size=2}']
    ).config.masking.selector
    assert block == RandomBlocksConfig(size=2)
    # Weights of before had a word there.
    assert MaskingConfig.model_validate({"selector": "random"}).selector == RandomTokensConfig()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("masking.selector=blocks", 'masking.selector.kind: no such kind "blocks".*mean block'),
        ('masking.selector={kind="block", size=0}', "masking.selector.size: .*greater than 0"),
        ('masking.selector={kind="crop", bucket=4}', "masking.selector.bucket: no such key"),
        ('masking.ratio={kind="linear", start=1.0}', "masking.ratio.start: .*less than 1"),
        ('masking.ratio={kind="cosine_decay", power=0}', "masking.ratio.power: .*greater than 0"),
        (
            'masking.ratio={kind="piecewise", points=[[0.5, 0.1], [0.2, 0.3]]}',
            r"points \[0.5, 0.2\] do not go forwards",
        ),
        ('masking.ratio={kind="piecewise", points=[[0.5, 0.1]]}', "at least 2 entries"),
    ],
)
def test_bad_masking_is_told(assignment: str, said: str) -> None:
    with pytest.raises(MdtError, match=said):
        load_config(["mdtv2"], [assignment])


def test_linear_is_a_line_over_all_steps() -> None:
    linear = load_config(["mdtv2"], ['masking.ratio={kind="linear", start=0.6, end=0.2}'])
    ratio = build_mask_ratio(linear.config.masking)
    assert isinstance(ratio, PiecewiseRatio)
    assert [ratio.bounds_at(k, 4)[0] for k in range(4)] == pytest.approx([0.6, 0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    ("selector", "said", "hint"),
    [
        ('{kind="block", size=3}', "size 3 does not divide the grid of 4x4", "sizes 1, 2, 4"),
        ('{kind="crop", size=5}', "size 5 exceeds the grid of 4x4", "a size up to 4"),
    ],
)
def test_a_selector_that_does_not_fit_stops_before_anything_is_written(
    cache: Path, tmp_path: Path, selector: str, said: str, hint: str
) -> None:
    with pytest.raises(MdtError, match=said) as caught:
        run(cache, tmp_path / "run", small(2, f"masking.selector={selector}"))
    assert hint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_schedule_whose_peak_keeps_nothing_stops_before_anything_is_written(
    cache: Path, tmp_path: Path
) -> None:
    ratio = 'masking.ratio={kind="linear", start=0.0, end=0.99}'
    with pytest.raises(MdtError, match=r"masking.ratio 0\.\d+ keeps none of 16 tokens"):
        run(cache, tmp_path / "run", small(50, ratio))
    assert not (tmp_path / "run").exists()


def test_without_masking_any_selector_fits() -> None:
    masking = MaskingConfig(selector=RandomBlocksConfig(size=3))
    assert build_selector(masking, (4, 4)).size == 3


SELECTORS = {
    "random": ("bucket=4", "8 to 12"),
    "block": ("size=2", "8 to 12"),
    "crop": ("size=3", "9"),
}


def test_every_selector_is_among_those_that_train() -> None:
    kinds = get_args(get_args(SelectorConfig)[0])
    assert {kind.model_fields["kind"].default for kind in kinds} == set(SELECTORS)


@pytest.mark.parametrize(
    ("selector", "kept"),
    [(f'{{kind="{kind}", {keys}}}', kept) for kind, (keys, kept) in SELECTORS.items()],
)
def test_every_selector_trains_and_is_planned(
    cache: Path, tmp_path: Path, selector: str, kept: str
) -> None:
    loaded = small(40, f"masking.selector={selector}", "optimizer.lr=1e-2")
    assert plan(cache, loaded.config).kept == kept
    run(cache, tmp_path / "run", loaded)
    losses = [entry["loss"] for entry in log_of(tmp_path / "run")]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-10:]) < sum(losses[:10])


def test_a_schedule_follows_the_step_and_goes_on_after_a_resume(
    cache: Path, tmp_path: Path
) -> None:
    loaded = small(9, "masking.ratio.kind=cosine_growth", "checkpoint.every=4")
    run(cache, tmp_path / "whole", loaded)
    ratios = [entry["mask_ratio"] for entry in log_of(tmp_path / "whole")]
    # S = int(2/3 of 9) = 6: half-way at step 3, at the top from step 6.
    assert ratios[0] == pytest.approx(0.15)
    assert ratios[3] == pytest.approx(0.4537, abs=1e-4)
    assert ratios[6:] == pytest.approx([0.75] * 3)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000009")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000008")
    run(cache, tmp_path / "cut", loaded)
    assert [entry["mask_ratio"] for entry in log_of(tmp_path / "cut")] == ratios
    assert digests(tmp_path / "cut", 9) == digests(tmp_path / "whole", 9)


def test_the_plan_knows_the_extremes(cache: Path) -> None:
    growing = small(100, "masking.ratio.kind=cosine_growth", "masking.selector=random")
    assert plan(cache, growing.config).kept == "4 to 13"
    falling = small(100, "masking.ratio.kind=cosine_decay")
    assert plan(cache, falling.config).kept == "8 to 15"
    # The cost is that of the mean ratio: between all dropped most and dropped least.
    flops = {
        kind: plan(cache, small(100, f"masking.ratio={kind}").config).train_flops
        for kind in (
            '{kind="constant", value=0.75}',
            '{kind="linear", start=0.75, end=0.15}',
            '{kind="constant", value=0.15}',
        )
    }
    most_dropped, line, least_dropped = flops.values()
    assert most_dropped < line < least_dropped


def test_a_decay_to_nothing_trains_to_the_end(cache: Path, tmp_path: Path) -> None:
    """The loss of dropped tokens is 0, not 0/0, where a step drops none."""
    views = 'masking.views=[{ tokens = "kept", terms = [{}, { region = "dropped" }] }]'
    ratio = 'masking.ratio={ kind = "cosine_decay", power = 60 }'
    run(cache, tmp_path / "run", small(8, views, ratio))
    last = log_of(tmp_path / "run")[-1]
    assert 0 < last["mask_ratio"] < 1e-16
    assert last["loss/masked-dropped"] == 0
    for entry in log_of(tmp_path / "run"):
        assert math.isfinite(entry["loss"])
        assert math.isfinite(entry["grad_norm"])
