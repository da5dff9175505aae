import numpy as np
import pytest
import torch

from mdt_cli.metrics.memorisation import QUANTILES, SUSPECT, Pair, memorisation


def draw(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def test_equals_brute_force() -> None:
    x, y = draw(50, 0), draw(80, 1)
    found = memorisation(x, y, pairs=5)
    a, b = x.double().numpy(), y.double().numpy()
    cross = np.linalg.norm(a[:, None] - b[None], axis=2)
    own = np.linalg.norm(b[:, None] - b[None], axis=2) + np.diag(np.full(80, np.inf))
    near, train = cross.min(1), own.min(1)
    assert found.threshold == pytest.approx(np.quantile(train, SUSPECT), rel=1e-9)
    assert found.share == np.mean(near <= np.quantile(train, SUSPECT))
    assert found.sample_quantiles == pytest.approx(np.quantile(near, QUANTILES), rel=1e-9)
    assert found.train_quantiles == pytest.approx(np.quantile(train, QUANTILES), rel=1e-9)
    order = near.argsort()[:5]
    assert [pair.sample for pair in found.closest] == order.tolist()
    assert [pair.reference for pair in found.closest] == cross.argmin(1)[order].tolist()
    assert [pair.distance for pair in found.closest] == pytest.approx(near[order], rel=1e-9)


def test_fresh_samples_are_as_near_as_chance_has_it() -> None:
    shares = [memorisation(draw(2000, s), draw(2000, 900 + s)).share for s in range(6)]
    assert np.mean(shares) == pytest.approx(SUSPECT, abs=0.005)


def test_copies_are_found_and_counted() -> None:
    y = draw(200, 1)
    x = torch.cat([draw(150, 0), y[:30], y[30:50] + 1e-3])
    digests = [bytes([i]) for i in range(200)]
    sample_digests = [*(bytes([250, i]) for i in range(150)), *digests[:30], *digests[:20]]
    found = memorisation(x, y, sample_digests, digests)
    assert found.identical == 50
    assert found.share >= 50 / 200
    assert [pair.distance for pair in found.closest[:30]] == [0] * 30
    assert {(pair.sample, pair.reference) for pair in found.closest[:30]} == {
        (150 + i, i) for i in range(30)
    }


@pytest.mark.parametrize("known", [True, False])
def test_duplicates_in_the_training_set_do_not_hide_what_is_nearly_copied(known: bool) -> None:
    """2 of 100 images come twice: the hundredth part of all distances would be 0."""
    y = draw(100, 1)
    trained, digests = torch.cat([y, y[:2]]), [bytes([i]) for i in [*range(100), 0, 1]]
    x = torch.cat([draw(50, 0), y[10:20] + 1e-4])
    found = memorisation(x, trained, [], digests if known else [])
    alone = memorisation(x, y)
    assert found.threshold == alone.threshold > 1e-3
    assert found.train_quantiles == alone.train_quantiles
    assert found.share == alone.share >= 10 / 60


def test_a_copy_comes_first_though_its_image_was_not_compared() -> None:
    y = draw(80, 1)
    x = torch.cat([draw(20, 0), y[70:71]])
    digests = [bytes([i]) for i in range(80)]
    found = memorisation(x, y[:40], [*(bytes([200, i]) for i in range(20)), digests[70]], digests)
    assert (found.identical, found.closest[0]) == (1, Pair(20, 70, 0.0))
    assert found.share >= 1 / 21
    assert len({pair.sample for pair in found.closest}) == 21


def test_copies_count_even_where_the_training_set_holds_duplicates() -> None:
    y = draw(50, 1).repeat(2, 1)
    assert memorisation(y[:10], y).share == 1
    one = y[:1].repeat(5, 1)
    assert memorisation(torch.cat([one, y[1:2]]), one).share == 5 / 6
