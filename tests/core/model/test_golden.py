"""Ours, and plain restatements, against numbers that official code printed on synthetic weights."""

from functools import lru_cache

import pytest
import torch

from mdt_cli.config.load import load_config
from tests.golden import numbers
from tests.golden.cases import OUR_LOSSES, OURS, parameters, sized, summary
from tests.golden.networks import Net, as_trained, config_of, plain_network, synthetic_network
from tests.golden.plain_cases import PLAIN, PLAIN_LOSSES
from tests.golden.synthetic import values

# The printed numbers have five or six digits after the point.
CLOSE = {"rel": 1e-4, "abs": 1e-5}


@lru_cache(maxsize=2)
def networks(name: str) -> tuple[Net, Net]:
    """Ours and the plain one; cases of a network stand together, so that few are kept."""
    network = synthetic_network(name)
    return as_trained(network), plain_network(name, network)


def by_network(cases: dict) -> list:
    return sorted(cases, key=lambda case: list(numbers.TITLES).index(case[0]))


@pytest.mark.parametrize(("name", "what"), by_network(numbers.OUTPUTS))
@torch.no_grad()
def test_outputs(name: str, what: str) -> None:
    ours, plain = networks(name)
    fused = OURS[name, what](ours)
    assert summary(fused) == pytest.approx(numbers.OUTPUTS[name, what], **CLOSE)
    if what.startswith("Heun"):
        # Many passes of the network: the plain ones are in the table of docs/fidelity.md.
        return
    slow = PLAIN[name, what](plain)
    assert summary(slow) == pytest.approx(numbers.OUTPUTS[name, what], **CLOSE)
    # Six numbers could agree by chance; thousands do not.
    torch.testing.assert_close(fused, slow, rtol=1e-4, atol=2e-4, check_dtype=False)


@pytest.mark.parametrize(("name", "what"), by_network(numbers.LOSSES))
@torch.no_grad()
def test_losses(name: str, what: str) -> None:
    ours, plain = networks(name)
    wanted = pytest.approx(numbers.LOSSES[name, what], rel=1e-4, abs=5e-6)
    assert OUR_LOSSES[name, what](ours) == wanted
    assert PLAIN_LOSSES[name, what](plain) == wanted


def test_both_sides_have_every_case() -> None:
    assert OURS.keys() == PLAIN.keys() == numbers.OUTPUTS.keys()
    assert OUR_LOSSES.keys() == PLAIN_LOSSES.keys() == numbers.LOSSES.keys()


@pytest.mark.parametrize("size", numbers.DIT)
def test_parameters_of_dit_and_mdt(size: str) -> None:
    assert parameters("dit", sized(size), frozen=True) == numbers.DIT[size]
    assert parameters("dit", sized(size)) == numbers.DIT_TRAINABLE[size]
    assert parameters("mdt", sized(size, decoder_depth=2)) == numbers.MDT_V1[size]
    assert parameters("mdtv2", sized(size, decoder_depth=4)) == numbers.MDT_V2_4[size]
    assert parameters("mdtv2", sized(size, decoder_depth=6)) == numbers.MDT_V2_6[size]


@pytest.mark.parametrize("size", numbers.MASKDIT)
def test_parameters_of_maskdit(size: str) -> None:
    assert parameters("maskdit", sized(size), frozen=True) == numbers.MASKDIT[size]
    assert parameters("maskdit", sized(size)) == numbers.MASKDIT_TRAINABLE[size]


@pytest.mark.parametrize(
    ("preset", "size"),
    [("uvit", size) for size in numbers.UVIT] + [("maskdm", size) for size in numbers.MASKDM],
)
def test_parameters_of_networks_with_time_tokens(preset: str, size: str) -> None:
    tables = numbers.UVIT if preset == "uvit" else numbers.MASKDM
    model, shape, classes, count = tables[size]
    assert parameters(preset, model, shape, classes) == count


@pytest.mark.parametrize("size", numbers.LMD)
def test_parameters_of_lmd(size: str) -> None:
    patch, count, trainable = numbers.LMD[size]
    # The decoder of the released code; the preset has that of the paper.
    keys, shape = {"patch_size": patch, "narrow_decoder.hidden_size": 512}, (4, 28, 28)
    assert parameters("lmd", keys, shape, 0, frozen=True) == count
    if trainable is not None:
        assert parameters("lmd", keys, shape, 0) == trainable


@pytest.mark.parametrize("size", numbers.LIGHTNINGDIT)
def test_parameters_of_lightningdit(size: str) -> None:
    assert parameters("lightningdit", sized(size), frozen=True) == numbers.LIGHTNINGDIT[size]


@pytest.mark.parametrize("size", numbers.JIT)
def test_parameters_of_jit(size: str) -> None:
    bottleneck, count = numbers.JIT[size]
    keys = sized(size, patch_bottleneck=bottleneck, class_tokens=0, class_tokens_at=0)
    assert parameters("jit", keys, (3, 256, 256), 0, frozen=True) == count


@pytest.mark.parametrize("name", numbers.CONFIGS)
def test_the_presets_are_the_networks_that_were_measured(name: str) -> None:
    own_size = name in ("uvit", "maskdm", "lmd")
    # JiT was measured without classes.
    keys = ["model.class_tokens=0", "model.class_tokens_at=0"] if name == "jit" else []
    code = ["lmd-code"] if name == "lmd" else []
    preset = load_config([name, *code] if own_size else [name, "size/s"], keys).config
    measured = config_of(name)
    assert preset.model == measured.model
    assert preset.objective.kind == measured.objective.kind
    assert preset.masking.is_masked == measured.masking.is_masked
    if preset.masking.is_masked:
        assert preset.masking.fill == measured.masking.fill
        assert preset.route == measured.route
        views = zip(preset.masking.views, measured.masking.views, strict=True)
        for view, seen in views:
            assert view.tokens == seen.tokens
            # Weights are applied to what was measured.
            bare = [term.model_copy(update={"weight": 1.0}) for term in view.terms]
            assert bare == list(seen.terms)[: len(bare)]


def test_synthetic_values_cover_their_range() -> None:
    filled = values((1000,), 3, 0.25)
    assert filled.min() < -0.12
    assert filled.max() > 0.12
