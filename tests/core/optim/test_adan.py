"""Adan against its update rule written out for one number at a time."""

import torch

from mdt_cli.core.optim.adan import Adan


def restated(weight: float, gradients: list[float], lr: float, decay: float) -> float:
    b1, b2, b3, eps = 0.98, 0.92, 0.99, 1e-8
    m = v = n = 0.0
    for k, g in enumerate(gradients, start=1):
        d = 0.0 if k == 1 else g - gradients[k - 2]
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        move = (m / (1 - b1**k) + b2 * v / (1 - b2**k)) / ((n / (1 - b3**k)) ** 0.5 + eps)
        weight = (weight - lr * move) / (1 + lr * decay)
    return weight


def test_update_rule() -> None:
    gradients = [0.3, -0.2, 0.7, 0.1, -0.9]
    for decay in (0.0, 0.1):
        parameter = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
        optimizer = Adan([parameter], lr=0.05, weight_decay=decay)
        for gradient in gradients:
            parameter.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
        wanted = restated(1.5, gradients, 0.05, decay)
        torch.testing.assert_close(parameter.item(), wanted, rtol=1e-12, atol=0)


def test_parameters_without_gradient_stay() -> None:
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Adan([moved, still], lr=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2))
    assert not torch.equal(moved, torch.ones(2))


def test_minimises_a_quadratic() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Adan([parameter], lr=0.05)
    for step in range(600):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 600)
        parameter.square().sum().backward()
        optimizer.step()
    assert parameter.abs().max() < 1e-2
