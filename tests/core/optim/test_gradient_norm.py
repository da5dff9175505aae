"""The clipping norm against float64, where one float32 sum over a matrix is 3e-3 off."""

import torch

from mdt_cli.core.optim.gradient_norm import gradient_norm


def test_one_large_matrix_is_as_exact_as_its_parts() -> None:
    gradient = torch.randn(2304, 7168, generator=torch.Generator().manual_seed(0)).mul_(1e-3)
    exact = float(gradient.double().norm())
    assert abs(float(torch.linalg.vector_norm(gradient)) / exact - 1) > 1e-4
    assert abs(float(gradient_norm([gradient])) / exact - 1) < 1e-6


def test_several_gradients_of_any_layout_are_one() -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = [
        torch.randn(300, 200, generator=generator).t(),
        torch.randn((), generator=generator),
        torch.randn(5, 3, 2, 2, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.zeros(0),
    ]
    exact = float(torch.cat([g.double().flatten() for g in gradients]).norm())
    assert abs(float(gradient_norm(gradients)) / exact - 1) < 1e-6


def test_nothing_and_what_is_not_finite() -> None:
    assert float(gradient_norm([])) == 0
    assert float(gradient_norm([torch.ones(2), torch.tensor([float("inf")])])) == float("inf")
    assert gradient_norm([torch.tensor([float("nan")])]).isnan()
