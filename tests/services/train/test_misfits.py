"""Recipes asked for what does not fit: one sentence, exit code 1, and nothing written."""

from pathlib import Path

import pytest

from mdt_cli.cli.app import run as mdt
from tests.services.training_kit import make_cache, make_images

KEPT = '{tokens="kept", terms=[{region="kept"}]}'
CASES = {
    "the route ends before it begins": (
        ("tread", "model.depth=4"),
        "masking.leave_at 2 and masking.restore_at -3 route blocks 2..1 of depth 4",
    ),
    "more decoder than network": (
        ("mdtv2", "model.depth=6"),
        "decoder_depth 6 leaves no encoder block of depth 6",
    ),
    "skips of an odd encoder": (
        ("mdtv2", "model.depth=11"),
        "depth 11 - decoder_depth 6 = 5 is odd",
    ),
    "a decoder that starts elsewhere": (
        ("mdt", "model.decoder_depth=4"),
        "the decoder (model.decoder_depth 4) starts at block 8: set masking.restore_at to -4",
    ),
    "a route through skips": (
        ("maskdm", "masking.leave_at=2"),
        "cut through model.long_skips",
    ),
    "a ratio that keeps nothing": (
        ("maskdit", "masking.ratio.value=0.99"),
        "masking.ratio 0.99 keeps none of 64 tokens",
    ),
    "blocks that do not divide the grid": (
        ("maskdm", "masking.selector.size=3"),
        "masking.selector.size 3 does not divide the grid of 4x4",
    ),
    "a window larger than the grid": (
        ("maskdm", 'masking.selector={kind="crop", size=9}'),
        "masking.selector.size 9 exceeds the grid of 4x4",
    ),
    "patches that do not divide the latents": (
        ("dit", "model.patch_size=3"),
        "latents of 16x16 cannot be cut into patches of 3",
    ),
    "an interpolator without a decoder": (
        ("tread", "masking.fill=interpolator", "masking.restore_at=0"),
        'masking.fill "interpolator" needs a decoder',
    ),
    "an early return with a narrow decoder": (
        ("maskdit", "masking.restore_at=-2"),
        "brings tokens back before the narrow decoder does: set it to 0",
    ),
    "nothing in front of a narrow decoder": (
        ("maskdit", "masking.fill=nothing"),
        'masking.fill "nothing" does not lead into model.narrow_decoder',
    ),
    "clean patches for nobody": (
        ("maskdit", "masking.fill=clean_patches", "model.narrow_decoder.depth=0"),
        'masking.fill "clean_patches" feeds a narrow decoder',
    ),
    "a return of what never comes back": (
        ("drop", "masking.restore_at=-2"),
        "brings no token back, so masking.restore_at -2 has no meaning",
    ),
    "holes under a convolution": (
        ("maskdm", "model.output_conv=true"),
        'masking.fill "nothing" leaves holes under model.output_conv',
    ),
    "a loss of what is not there": (
        ("drop", 'masking.views=[{tokens="kept"}]'),
        'masking.fill "nothing" has no answer for dropped tokens',
    ),
    "a region of a whole pass": (
        ("dit", 'masking.views=[{tokens="all", terms=[{region="kept"}]}]'),
        "a pass on all tokens has no kept tokens",
    ),
    "a teacher without its fill": (
        ("maskdit", 'masking.views=[{tokens="kept", terms=[{target="teacher_noisy"}]}]'),
        'teacher targets need a view on kept tokens and masking.fill "clean_patches"',
    ),
    "a teacher of a whole pass": (
        ("mcdit", 'masking.views=[{tokens="all", terms=[{target="teacher_clean"}]}]'),
        'teacher targets need a view on kept tokens and masking.fill "clean_patches"',
    ),
    "two decoders": (
        ("mdt", "model.narrow_decoder.depth=2"),
        "one decoder at a time",
    ),
    "relative positions of tokens with time": (
        ("uvit", "model.relative_bias=true"),
        "belong to condition adaln, not tokens",
    ),
    "noise without time": (
        ("lmd", "objective.kind=edm"),
        'model.condition "none" knows no time',
    ),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("misfits")
    return make_cache(folder / "cache", make_images(folder / "images", per_class=2))


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(
    case: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe, *assignments), said = CASES[case]
    words = ["pretrain", str(cache), str(tmp_path / "run"), "-p", recipe, "-p", "size/tiny"]
    for assignment in ("training.steps=1", *assignments):
        words += ["--set", assignment]
    assert mdt(words) == 1
    output = capsys.readouterr()
    # Long lines are folded on a terminal.
    told = " ".join(output.err.split())
    assert said in told
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert output.out == ""
    assert not (tmp_path / "run").exists()
