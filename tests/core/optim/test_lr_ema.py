"""Learning rate, mask ratio and averages at the places that matter."""

import pytest
import torch

from mdt_cli.core.optim.ema import Ema, Swapped, decay_at
from mdt_cli.core.optim.lr import lr_factor
from mdt_cli.core.rng import stream


def test_warmup_never_starts_at_zero_and_then_holds() -> None:
    factors = [lr_factor(step, 100, 4, "constant", 0.0) for step in range(8)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_cosine_ends_where_it_was_told() -> None:
    assert lr_factor(99, 100, 0, "cosine", 0.1) == pytest.approx(0.1)
    assert lr_factor(0, 101, 0, "cosine", 0.0) == pytest.approx(1)
    assert lr_factor(50, 101, 0, "cosine", 0.0) == pytest.approx(0.5)


def test_warmup_from_zero_starts_there_and_reaches_one_in_the_same_step() -> None:
    factors = [lr_factor(step, 100, 4, "constant", 0.0, from_zero=True) for step in range(6)]
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    # MaskDiT has no warm-up, and yet its first step is lost.
    assert [lr_factor(k, 100, 0, "constant", 0.0, from_zero=True) for k in range(3)] == [0, 1, 1]


def test_average_is_the_recurrence() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    ema = Ema(network, 0.9, warmup="none")
    for step, value in enumerate((2.0, 3.0), start=1):
        with torch.no_grad():
            network.weight.fill_(value)
        ema.update(network, step)
    assert ema.tensors["weight"].item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)


def test_the_power_warmup_copies_101_times_and_then_slows_down() -> None:
    """ema-pytorch: beta 0.999, update_after_step 100, inv_gamma 1, power 2/3."""
    assert {decay_at(k, 0.999, "power") for k in range(1, 102)} == {0.0}
    wanted = {102: 1 - 2 ** (-2 / 3), 103: 1 - 3 ** (-2 / 3), 127: 1 - 1 / 9, 1100: 0.99}
    for update, value in wanted.items():
        assert decay_at(update, 0.999, "power") == pytest.approx(value, abs=1e-12)
    # 1 - n^(-2/3) reaches 0.999 at n = 31,623.
    assert decay_at(31_700, 0.999, "power") < 0.999
    assert decay_at(31_724, 0.999, "power") == 0.999
    with pytest.raises(ValueError, match="no such EMA warm-up: slow"):
        decay_at(1, 0.999, "slow")


def test_the_power_warmup_in_an_average() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(network, 0.999, warmup="power")
    wanted = 0.0
    for step in range(1, 105):
        with torch.no_grad():
            network.weight.fill_(step)
        ema.update(network, step)
        kept = 0.0 if step <= 101 else 1 - (1 + step - 101) ** (-2 / 3)
        wanted = kept * wanted + (1 - kept) * step
        assert ema.tensors["weight"].item() == pytest.approx(wanted, rel=1e-6)
    assert wanted < 104


def test_warmup_lets_a_young_average_follow() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    slow, quick = Ema(network, 0.9999, warmup="none"), Ema(network, 0.9999, warmup="ramp")
    with torch.no_grad():
        network.weight.fill_(5.0)
    for step in range(1, 60):
        slow.update(network, step)
        quick.update(network, step)
    assert abs(quick.tensors["weight"].item() - 5) < 0.01
    assert abs(slow.tensors["weight"].item() - 5) > 1


def test_swapped_puts_the_own_weights_back() -> None:
    network = torch.nn.Linear(2, 2)
    own = network.weight.detach().clone()
    other = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    with Swapped(network, other):
        assert network.weight.abs().sum() == 0
    assert torch.equal(network.weight, own)


def test_streams_depend_on_every_part_of_the_key() -> None:
    first = torch.rand(4, generator=stream(1, 2, "x"))
    assert torch.equal(first, torch.rand(4, generator=stream(1, 2, "x")))
    for key in ((1, 2, "y"), (2, 1, "x"), (12, "x"), (1, 2, 0, "x")):
        assert not torch.equal(first, torch.rand(4, generator=stream(*key)))
