"""Invariants of the network and of its route."""

import pytest
import torch

from mdt_cli.config.load import load_config
from mdt_cli.core.masking.tokens import RandomTokens, TokenSubset
from mdt_cli.core.model.assemble import mirror_skips
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.network import build_network

RECIPES = ["dit", "mdt", "mdtv2"]


def network_of(names: list[str], assignments: tuple[str, ...] = (), seed: int = 0):
    """A tiny network with every parameter random: zero-initialised ones would hide faults."""
    network = build_network(load_config(names, list(assignments)).config, (4, 8, 8), 5)
    generator = stream("weights", seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.double().eval()


X = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=stream("x"))
T, Y = torch.tensor([3, 700]), torch.tensor([1, 5])
SUBSET = RandomTokens().draw(2, (4, 4), 0.4, stream("subset"))


def test_output_is_zero_at_the_start() -> None:
    network = build_network(load_config(["mdtv2", "size/tiny"], []).config, (4, 8, 8), 5)
    assert network(X.float(), T, Y, SUBSET).final.abs().max() == 0


@pytest.mark.parametrize("recipe", ["mdt", "mdtv2"])
@torch.no_grad()
def test_keeping_every_token_is_no_masking(recipe: str) -> None:
    network = network_of([recipe, "size/tiny"])
    order = torch.randperm(16, generator=stream("order"))
    everything = TokenSubset(torch.stack([order, order.flip(0)]), 16)
    torch.testing.assert_close(
        network(X, T, Y, everything).final, network(X, T, Y).final, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("recipe", ["mdt", "mdtv2"])
@torch.no_grad()
def test_the_order_of_kept_tokens_does_not_matter(recipe: str) -> None:
    network = network_of([recipe, "size/tiny"])
    mixed = TokenSubset(SUBSET.kept_BK.flip(1), 16)
    got, wanted = network(X, T, Y, mixed).final, network(X, T, Y, SUBSET).final
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


def masked_gradient(network, subset: TokenSubset) -> torch.Tensor:
    """Gradient of the masked output with respect to each token's pixels, summed: [B, 16]."""
    x = X.clone().requires_grad_()
    network(x, T, Y, subset).final.square().sum().backward()
    assert x.grad is not None
    return x.grad.abs().unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(1, 4, 5)).flatten(1)


def test_mdt_sees_no_hidden_pixel_and_mdtv2_does() -> None:
    dropped = SUBSET.dropped_BN
    gradient = masked_gradient(network_of(["mdt", "size/tiny"]), SUBSET)
    assert gradient[dropped].max() == 0
    assert gradient[~dropped].min() > 0
    gradient = masked_gradient(network_of(["mdtv2", "size/tiny"]), SUBSET)
    assert gradient[dropped].min() > 0


FILLS = [("zeros", False), ("mean", False), ("mask_token", False), ("input", True)]


@pytest.mark.parametrize(("fill", "returns"), FILLS)
def test_fills(fill: str, returns: bool) -> None:
    masking = (
        'masking.views=[{tokens="kept"}]',
        f"masking.fill={fill}",
        "masking.leave_at=2",
        "masking.restore_at=-4",
    )
    network = network_of(["dit", "size/tiny"], masking)
    assert network(X, T, Y, SUBSET).final.shape == (2, 8, 8, 8)
    left = torch.randn(2, 16, 96, dtype=torch.float64)
    back = network.fill(SUBSET.gather(left), left, SUBSET)
    same = (back == left).all(-1)
    assert bool(same[~SUBSET.dropped_BN].all())
    assert bool(same[SUBSET.dropped_BN].all()) == returns
    if fill == "mean":
        mean = SUBSET.gather(left).mean(1)[:, None].expand_as(left)
        torch.testing.assert_close(back[SUBSET.dropped_BN], mean[SUBSET.dropped_BN])


def test_a_subset_needs_a_route() -> None:
    network = network_of(["dit", "size/tiny"])
    with pytest.raises(ValueError, match="without a route"):
        network(X, T, Y, SUBSET)


@torch.no_grad()
def test_the_label_matters_and_unconditional_networks_have_none() -> None:
    network = network_of(["dit", "size/tiny"])
    assert not torch.allclose(network(X, T, Y).final, network(X, T, Y.flip(0)).final)
    plain = network_of(["dit", "size/tiny"], ("data.conditional=false",))
    assert plain.label is None
    torch.testing.assert_close(plain(X, T, None).final, plain(X, T, Y).final)


def test_skips_are_last_in_first_out() -> None:
    assert mirror_skips(6) == {3: 2, 4: 1, 5: 0}


def test_latents_that_patches_cannot_cut() -> None:
    config = load_config(["dit", "size/tiny"], ["model.patch_size=3"]).config
    with pytest.raises(MdtError, match="8x8 cannot be cut into patches of 3"):
        build_network(config, (4, 8, 8), 5)


def test_a_ratio_that_keeps_nothing() -> None:
    config = load_config(
        ["mdt", "size/tiny"], ["masking.ratio.value=0.99", "model.patch_size=4"]
    ).config
    with pytest.raises(MdtError, match=r"0\.99 keeps none of 4 tokens"):
        build_network(config, (4, 8, 8), 5)
