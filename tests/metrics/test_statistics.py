from pathlib import Path

import numpy as np
import pytest
import torch

from mdt_cli.errors import MdtError
from mdt_cli.metrics.statistics import (
    Moments,
    Statistics,
    has_statistics,
    load_statistics,
    save_statistics,
)


def moments_of(rows_ND: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    moments = Moments(rows_ND.shape[1])
    for part in rows_ND.split(batch):
        moments.add(part)
    return moments.finish()


def test_mean_and_covariance_are_numpys_with_a_large_offset() -> None:
    rows_ND = torch.randn(1000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows_ND = rows_ND + 1e4
    mu_D, sigma_DD = moments_of(rows_ND, 7)
    np.testing.assert_allclose(mu_D, rows_ND.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(sigma_DD, np.cov(rows_ND.numpy(), rowvar=False), atol=1e-11)


@pytest.mark.parametrize("batch", [1, 3, 256, 300, 512, 1000])
def test_batches_do_not_change_a_bit(batch: int) -> None:
    rows_ND = torch.randn(777, 5, generator=torch.Generator().manual_seed(1))
    for ours, whole in zip(moments_of(rows_ND, batch), moments_of(rows_ND, 777), strict=True):
        assert torch.equal(ours, whole)


def test_order_changes_rounding_only() -> None:
    generator = torch.Generator().manual_seed(2)
    rows_ND = torch.rand(700, 6, generator=generator, dtype=torch.float64)
    shuffled = rows_ND[torch.randperm(700, generator=generator)]
    for ours, whole in zip(moments_of(shuffled, 64), moments_of(rows_ND, 64), strict=True):
        assert (ours - whole).abs().max() < 1e-15


def statistics() -> Statistics:
    mu_D, sigma_DD = moments_of(torch.rand(50, 4), 50)
    return Statistics(mu_D, sigma_DD, "abc", "efficientnet-lite0", "clean", 50, (8, 16))


def test_statistics_come_back_as_they_were(tmp_path: Path) -> None:
    saved = statistics()
    save_statistics(tmp_path / "ref.npz", saved)
    read = load_statistics(tmp_path / "ref.npz")
    assert torch.equal(read.mu_D, saved.mu_D)
    assert torch.equal(read.sigma_DD, saved.sigma_DD)
    assert (read.extractor, read.resize, read.count, read.digest, read.size) == (
        "efficientnet-lite0",
        "clean",
        50,
        "abc",
        (8, 16),
    )
    assert [file.name for file in tmp_path.iterdir()] == ["ref.npz"]


def test_statistics_of_other_tools_say_nothing_of_their_origin(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    read = load_statistics(tmp_path / "foreign.npz")
    assert read.extractor is None
    assert not read.adm
    assert read.mu_D.dtype == torch.float64
    np.savez(tmp_path / "arr.npz", arr_0=np.zeros((1, 2, 2, 3), np.uint8))
    assert has_statistics(tmp_path / "foreign.npz")
    assert not has_statistics(tmp_path / "arr.npz")


def test_bad_statistics_are_named(tmp_path: Path) -> None:
    file = tmp_path / "ref.npz"
    np.savez(file, mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(MdtError, match=r"ref.npz holds NaN"):
        load_statistics(file)
    np.savez(file, mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(MdtError, match=r"expected \[D\] and \[D, D\]"):
        load_statistics(file)
    np.savez(file, mu=np.zeros(3), sigma=np.eye(3), format=np.array(99))
    with pytest.raises(MdtError, match="statistics format 99"):
        load_statistics(file)
    np.savez(file, mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(MdtError, match="not a readable npz"):
        load_statistics(file)
    np.savez(file, mu=np.zeros(300), sigma=np.eye(300))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(MdtError, match="not a readable npz"):
        has_statistics(file)
