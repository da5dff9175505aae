"""Subsets keep what they say, in place, whatever they carry."""

import pytest
import torch

from mdt_cli.core.rng import stream
from mdt_cli.core.tokens import TokenSubset, num_kept, random_tokens


def test_counts_are_those_of_the_papers() -> None:
    assert num_kept(256, 0.3) == 179
    assert num_kept(256, 0.5) == 128
    assert num_kept(256, 0.4) == 153
    assert num_kept(49, 0.75) == 12


def test_gather_then_scatter_is_the_identity_on_kept_tokens() -> None:
    x = torch.randn(3, 16, 5)
    subset = random_tokens(3, 16, 0.4, stream(1))
    back = subset.scatter(subset.gather(x), torch.zeros_like(x))
    dropped = subset.dropped_BN
    assert torch.equal(back[~dropped], x[~dropped])
    assert torch.equal(back[dropped], torch.zeros_like(back[dropped]))
    assert int(dropped.sum()) == 3 * (16 - num_kept(16, 0.4))


def test_samples_of_a_batch_differ_and_a_stream_repeats() -> None:
    first = random_tokens(8, 64, 0.5, stream("a"))
    assert len({tuple(row.tolist()) for row in first.kept_BK}) == 8
    assert torch.equal(first.kept_BK, random_tokens(8, 64, 0.5, stream("a")).kept_BK)
    assert not torch.equal(first.kept_BK, random_tokens(8, 64, 0.5, stream("b")).kept_BK)


def test_every_token_is_kept_as_often_as_any_other() -> None:
    kept = random_tokens(20_000, 8, 0.5, stream("uniform")).kept_BK
    share = torch.bincount(kept.flatten(), minlength=8) / 20_000
    # Four standard deviations of a share of one half over 20,000 draws.
    torch.testing.assert_close(share, torch.full((8,), 0.5), atol=4 * 0.5 / 20_000**0.5, rtol=0)


def test_a_mask_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps none of 4"):
        random_tokens(1, 4, 0.9, stream(0))


def test_scatter_leaves_its_inputs_alone() -> None:
    elsewhere = torch.zeros(1, 4, 2)
    subset = TokenSubset(torch.tensor([[1, 3]]), 4)
    subset.scatter(torch.ones(1, 2, 2), elsewhere)
    assert elsewhere.sum() == 0
