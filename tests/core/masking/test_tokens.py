"""Subsets keep what they say, in place, whatever they carry."""

import pytest
import torch

from mdt_cli.core.masking.tokens import (
    CropWindow,
    RandomBlocks,
    RandomTokens,
    Selector,
    TokenSubset,
)
from mdt_cli.core.rng import stream

LATENT, LMD, FACES = (16, 16), (7, 7), (64, 64)
SELECTORS: tuple[Selector, ...] = (
    RandomTokens(),
    RandomTokens(bucket=8),
    RandomBlocks(1),
    RandomBlocks(2),
    CropWindow(3),
)


@pytest.mark.parametrize(
    ("selector", "grid", "ratio", "kept"),
    [
        # MAE's rule, as MDT, MaskDiT and LMD count.
        (RandomTokens(), LATENT, 0.3, 179),
        (RandomTokens(), LATENT, 0.5, 128),
        (RandomTokens(), LATENT, 0.4, 153),
        (RandomTokens(), LMD, 0.15, 41),
        (RandomTokens(), LMD, 0.40, 29),
        (RandomTokens(), LMD, 0.75, 12),
        # MaskDM's published table.
        (RandomBlocks(1), LATENT, 0.1, 231),
        (RandomBlocks(1), LATENT, 0.5, 128),
        (RandomBlocks(1), LATENT, 0.9, 26),
        (RandomBlocks(2), LATENT, 0.1, 232),
        (RandomBlocks(2), LATENT, 0.5, 128),
        (RandomBlocks(2), LATENT, 0.9, 28),
        (RandomBlocks(4), LATENT, 0.1, 240),
        (RandomBlocks(4), LATENT, 0.5, 128),
        (RandomBlocks(4), LATENT, 0.9, 32),
        (RandomBlocks(8), LATENT, 0.5, 128),
        (CropWindow(15), LATENT, 0.5, 225),
        (CropWindow(11), LATENT, 0.9, 121),
        (CropWindow(5), LATENT, 0.0, 25),
        (RandomBlocks(4), FACES, 0.5, 2048),
        (RandomBlocks(4), FACES, 0.9, 416),
        # Few lengths for MDT v2's range, and no more tokens than there are.
        (RandomTokens(bucket=16), LATENT, 0.3, 192),
        (RandomTokens(bucket=16), LATENT, 0.5, 128),
        (RandomTokens(bucket=16), LATENT, 0.49, 144),
        (RandomTokens(bucket=48), LATENT, 0.01, 256),
        # A ratio that drops nothing.
        (RandomTokens(), LATENT, 0.0, 256),
        (RandomBlocks(4), LATENT, 0.05, 256),
    ],
)
def test_counts_are_those_of_the_papers(
    selector: Selector, grid: tuple[int, int], ratio: float, kept: int
) -> None:
    assert selector.num_kept(grid, ratio) == kept
    subset = selector.draw(3, grid, ratio, stream("counts"))
    assert subset.kept_BK.shape == (3, kept)
    assert subset.num_tokens == grid[0] * grid[1]


def test_treads_route_rounds_the_dropped_tokens_down() -> None:
    """N - int(N r), as its routing_module.py counts; MAE and most recipes keep int(N (1 - r))."""
    for side, ratio, route, others in ((7, 0.5, 25, 24), (16, 0.5, 128, 128), (5, 0.3, 18, 17)):
        grid = (side, side)
        assert RandomTokens(floor="dropped").num_kept(grid, ratio) == route
        assert RandomTokens().num_kept(grid, ratio) == others
        assert RandomTokens(floor="dropped").draw(
            2, grid, ratio, torch.Generator()
        ).kept_BK.shape == (
            2,
            route,
        )
    assert RandomTokens(bucket=8, floor="dropped").num_kept((7, 7), 0.5) == 32


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
def test_kept_tokens_are_distinct_and_in_grid_order(selector: Selector) -> None:
    # Neither side of the grid is the other's: rows and columns cannot be mistaken.
    kept_BK = selector.draw(16, (4, 6), 0.5, stream("order")).kept_BK
    assert (kept_BK.diff(dim=1) > 0).all()
    assert kept_BK.min() >= 0
    assert kept_BK.max() < 24


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
def test_samples_of_a_batch_differ_and_a_stream_repeats(selector: Selector) -> None:
    first = selector.draw(8, (8, 8), 0.5, stream("a"))
    assert len({tuple(row.tolist()) for row in first.kept_BK}) > 4
    assert torch.equal(first.kept_BK, selector.draw(8, (8, 8), 0.5, stream("a")).kept_BK)
    assert not torch.equal(first.kept_BK, selector.draw(8, (8, 8), 0.5, stream("b")).kept_BK)


@pytest.mark.parametrize("selector", [RandomTokens(), RandomBlocks(1), RandomBlocks(2)], ids=repr)
def test_every_token_is_kept_as_often_as_any_other(selector: Selector) -> None:
    kept = selector.draw(20_000, (2, 8), 0.5, stream("uniform")).kept_BK
    share = torch.bincount(kept.flatten(), minlength=16) / 20_000
    # Four standard deviations of a share of one half over 20,000 draws.
    torch.testing.assert_close(share, torch.full((16,), 0.5), atol=4 * 0.5 / 20_000**0.5, rtol=0)


def test_blocks_are_dropped_whole() -> None:
    dropped = RandomBlocks(2).draw(64, (4, 6), 0.5, stream("blocks")).dropped_BN.view(64, 4, 6)
    blocks = dropped.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert torch.equal(blocks.all(3), blocks.any(3))
    assert (blocks.all(3).sum((1, 2)) == 3).all()


def test_a_window_is_one_square_and_lies_anywhere() -> None:
    kept = ~CropWindow(3).draw(4_000, (5, 4), 0.5, stream("window")).dropped_BN.view(-1, 5, 4)
    rows, columns = kept.any(2), kept.any(1)
    assert (rows.sum(1) == 3).all()
    assert (columns.sum(1) == 3).all()
    top, left = rows.int().argmax(1), columns.int().argmax(1)
    places = torch.bincount(top * 2 + left, minlength=6) / 4_000
    torch.testing.assert_close(places, torch.full((6,), 1 / 6), atol=4 * 0.373 / 4e3**0.5, rtol=0)
    assert (rows.int().diff(dim=1).abs().sum(1) <= 2).all(), "a window has no gaps"


def test_gather_then_scatter_is_the_identity_on_kept_tokens() -> None:
    x = torch.randn(3, 16, 5)
    subset = RandomTokens().draw(3, (4, 4), 0.4, stream(1))
    back = subset.scatter(subset.gather(x), torch.zeros_like(x))
    dropped = subset.dropped_BN
    assert torch.equal(back[~dropped], x[~dropped])
    assert torch.equal(back[dropped], torch.zeros_like(back[dropped]))
    assert int(dropped.sum()) == 3 * (16 - 9)


@pytest.mark.parametrize("selector", [RandomTokens(), RandomTokens(bucket=4), RandomBlocks(1)])
def test_a_mask_that_keeps_nothing_is_refused(selector: Selector) -> None:
    with pytest.raises(ValueError, match="keeps none of 4"):
        selector.draw(1, (2, 2), 1.0, stream(0))


@pytest.mark.parametrize(
    ("selector", "grid", "said"),
    [
        (RandomBlocks(3), (6, 8), "blocks of 3 do not tile a grid of 6x8"),
        (CropWindow(7), (6, 8), "a window of 7 exceeds a grid of 6x8"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(
    selector: Selector, grid: tuple[int, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        selector.num_kept(grid, 0.5)


def test_scatter_leaves_its_inputs_alone() -> None:
    elsewhere = torch.zeros(1, 4, 2)
    subset = TokenSubset(torch.tensor([[1, 3]]), 4)
    subset.scatter(torch.ones(1, 2, 2), elsewhere)
    assert elsewhere.sum() == 0
