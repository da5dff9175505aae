import numpy as np
import pytest
import torch

from mdt_cli.metrics.neighbours import block_shape, nearest, squared_radii


def draw(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("memory", [0, 1 << 29])
@pytest.mark.parametrize("k", [1, 4])
def test_equals_all_distances_sorted(k: int, memory: int) -> None:
    x, y = draw(90, 7, 0), draw(170, 7, 1)
    found = nearest(x, y, k, memory=memory)
    distances = np.linalg.norm(x.double().numpy()[:, None] - y.double().numpy()[None], axis=2)
    order = distances.argsort(1)[:, :k]
    assert found.indices_NK.tolist() == order.tolist()
    expected = np.take_along_axis(distances, order, 1)
    assert np.abs(found.distances_NK.numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("memory", [0, 1 << 29])
def test_no_row_is_its_own_neighbour(memory: int) -> None:
    x = draw(200, 5, 2)
    found = nearest(x, x, 2, memory=memory, own=True)
    assert (found.indices_NK != torch.arange(200)[:, None]).all()
    distances = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    expected = distances.sort(1).values[:, :2]
    assert (found.distances_NK - expected).abs().max() < 1e-6
    assert torch.equal(squared_radii(x, 2, memory=memory), found.distances_NK[:, 1] ** 2)


def test_a_duplicate_lies_at_zero_and_is_another_row() -> None:
    x = draw(40, 512, 3) * 100
    twice = torch.cat([x, x])
    found = nearest(twice, twice, 1, own=True)
    assert found.distances_NK.abs().max() == 0
    assert found.indices_NK[:, 0].tolist() == [*range(40, 80), *range(40)]


def test_blocks_fit_the_memory_given() -> None:
    for memory in (1 << 20, 64 << 20, 512 << 20, 4 << 30):
        rows, columns = block_shape(2048, memory)
        assert 8 * (5 * rows * columns + (rows + columns) * 2048) <= max(memory, 2 << 20)
    assert block_shape(2048, 64 << 20)[0] < block_shape(2048, 1 << 30)[0]


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="3 neighbours need 4 rows, got 3"):
        nearest(draw(3, 2, 0), draw(3, 2, 0), 3, own=True)
