import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from mdt_cli.core.metrics import precision_recall as module
from mdt_cli.core.metrics.precision_recall import precision_recall, squared_radii
from tests.reference.metrics import share_inside


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_definition(k: int) -> None:
    x, y = draw(60, 4, 0, 1.3), draw(45, 4, 1)
    found = precision_recall(x, y, k)
    assert found.precision == share_inside(x.double().numpy(), y.double().numpy(), k)
    assert found.recall == share_inside(y.double().numpy(), x.double().numpy(), k)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_equals_torch_fidelity() -> None:
    x, y = draw(400, 16, 2, 1.1).double(), draw(300, 16, 3).double()
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    found = precision_recall(x, y)
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(130, 6, 4), draw(90, 6, 5, 1.2)
    whole = precision_recall(x, y)
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "COLUMNS", 11)
    assert precision_recall(x.flip(0), y.flip(0)) == whole


def test_copies_are_inside_though_their_ball_is_a_point() -> None:
    """Four copies give radius 0; the rounding of large norms must not push a fifth one out."""
    points = draw(200, 512, 6, 100.0)
    centres = points.repeat(4, 1)
    for point in points[:20]:
        assert precision_recall(point.repeat(5, 1), centres).precision == 1


def test_radius_is_the_kth_other_row() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert squared_radii(line, 1).tolist() == [1, 1, 4, 16]
    assert squared_radii(line, 3).tolist() == [49, 36, 16, 49]
    with pytest.raises(ValueError, match="at least 4 rows"):
        precision_recall(line[:3], line, 3)
