"""What a masked pass can see: hidden pixels leave no trace where a recipe says they leave none.

Gradients of raw answers: the preconditioning around a network adds its own skip to each pixel.
"""

import pytest
import torch
from torch import Tensor

from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.route import Route
from tests.core.model.test_transformer import SUBSET, T, X, Y, network_of

DROPPED = SUBSET.dropped_BN
ELSEWHERE = X.flip(3)


def per_token(gradient: Tensor | None) -> Tensor:
    """[B, N]: the sum of absolute values over each patch of 2 x 2."""
    assert gradient is not None
    return gradient.abs().unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(1, 4, 5)).flatten(1)


def seen(network, subset: TokenSubset | None = SUBSET) -> tuple[Tensor, Tensor]:
    """How much the whole answer depends on each token of the input and of the second image."""
    x, elsewhere = X.clone().requires_grad_(), ELSEWHERE.clone().requires_grad_()
    labels = None if network.label is None and network.extras is not None else Y
    network(x, T, labels, subset, elsewhere).final.square().sum().backward()
    if elsewhere.grad is None:
        elsewhere.grad = torch.zeros_like(elsewhere)
    return per_token(x.grad), per_token(elsewhere.grad)


SMALL_DECODER = "model.narrow_decoder={depth=2, hidden_size=32, num_heads=2}"
SUBTRACTING = "model.narrow_decoder={depth=2, hidden_size=32, num_heads=2, subtract_positions=true}"
PATCHES = "model.patch_size=2"


@pytest.mark.parametrize(
    ("preset", "assignments"),
    [
        ("mdt", ()),
        ("maskdit", (SMALL_DECODER,)),
        ("mcdit", (SMALL_DECODER,)),
        ("maskdm", (PATCHES, "masking.selector=random")),
        ("lmd", (PATCHES, SUBTRACTING)),
        ("drop", ()),
        ("quickstart", (PATCHES,)),
    ],
)
def test_hidden_pixels_leave_no_trace(preset: str, assignments: tuple[str, ...]) -> None:
    network = network_of([preset, "size/tiny"], ("model.depth=4", *assignments))
    gradient, _ = seen(network)
    assert gradient[DROPPED].max() == 0
    assert gradient[~DROPPED].min() > 0


@pytest.mark.parametrize("preset", ["mdtv2", "tread"])
def test_recipes_that_bring_hidden_tokens_back_see_them(preset: str) -> None:
    gradient, _ = seen(network_of([preset, "size/tiny"]))
    assert gradient.min() > 0


@pytest.mark.parametrize("preset", ["maskdm", "drop", "quickstart"])
@torch.no_grad()
def test_without_a_fill_hidden_places_of_the_answer_are_empty(preset: str) -> None:
    words = (PATCHES, "model.depth=3", "masking.selector=random")
    answer = network_of([preset, "size/tiny"], words)(X, T, Y, SUBSET).final
    tokens = per_token(answer)
    assert tokens[DROPPED].max() == 0
    assert tokens[~DROPPED].min() > 0


def test_mcdit_sees_clean_patches_where_it_hides_noisy_ones_and_nowhere_else() -> None:
    network = network_of(["mcdit", "size/tiny"], ("model.depth=2", SMALL_DECODER))
    noisy, clean = seen(network)
    assert noisy[DROPPED].max() == 0
    assert noisy[~DROPPED].min() > 0
    assert clean[DROPPED].min() > 0
    assert clean[~DROPPED].max() == 0
    # On all tokens, as in its last stage, there is no second image.
    noisy, clean = seen(network, None)
    assert noisy.min() > 0
    assert clean.max() == 0


@torch.no_grad()
def test_tokens_off_the_route_come_back_bit_for_bit() -> None:
    network = network_of(["tread", "size/tiny"]).float()
    # Blocks 2 to depth - 4 run without them: the published route.
    assert network.route == Route(2, 9)
    arriving: dict[int, Tensor] = {}
    for number, block in enumerate(network.blocks):
        block.register_forward_pre_hook(
            lambda _, inputs, at=number: arriving.__setitem__(at, inputs[0])
        )
    left: list[Tensor] = []
    network.blocks[1].register_forward_hook(lambda _, __, output: left.append(output))
    network(X.float(), T, Y, SUBSET)
    back = arriving[9]
    assert torch.equal(back[DROPPED], left[0][DROPPED])
    assert not torch.isclose(back[~DROPPED], left[0][~DROPPED]).any(dim=-1).all()
    lengths = [arriving[number].shape[1] for number in range(12)]
    keep = SUBSET.kept_BK.shape[1]
    assert lengths == [16, 16, *[keep] * 7, 16, 16, 16]


@pytest.mark.parametrize(
    ("preset", "assignments"),
    [
        ("maskdit", (SMALL_DECODER,)),
        ("mcdit", (SMALL_DECODER,)),
        ("maskdm", (PATCHES, "masking.selector=random")),
        ("lmd", (PATCHES, SUBTRACTING)),
        ("tread", ()),
        ("drop", ()),
    ],
)
@torch.no_grad()
def test_order_does_not_matter_and_keeping_all_is_no_masking(
    preset: str, assignments: tuple[str, ...]
) -> None:
    network = network_of([preset, "size/tiny"], ("model.depth=8", *assignments))
    answer = network(X, T, Y, SUBSET, ELSEWHERE).final
    mixed = TokenSubset(SUBSET.kept_BK.flip(1), 16)
    torch.testing.assert_close(
        network(X, T, Y, mixed, ELSEWHERE).final,
        answer,
        rtol=0,
        atol=1e-11 * answer.abs().max().item(),
    )
    everything = TokenSubset(torch.arange(16).flip(0).expand(2, -1), 16)
    whole = network(X, T, Y).final
    scale = whole.abs().max().item()
    torch.testing.assert_close(
        network(X, T, Y, everything, ELSEWHERE).final, whole, rtol=0, atol=1e-11 * scale
    )
    assert (answer - whole).abs().max() > 1e-3 * scale
