"""Adan, the optimizer of MDT v2 (Xie et al. 2022, algorithm 1)."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class Adan(torch.optim.Optimizer):
    """Adaptive Nesterov momentum. `betas` are the shares of the old state that stay.

    With g the gradient, d its change since the last step (0 at first), k the step from 1:
    m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) d; n <- b3 n + (1-b3) (g + b2 d)^2;
    w <- (w - lr (m/(1-b1^k) + b2 v/(1-b2^k)) / (sqrt(n/(1-b3^k)) + eps)) / (1 + lr weight_decay).
    Where `found_inf` is set and is 1, the last gradient replaces the new one. As with torch's fused
    optimizers, the host need not wait for the device to decide.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def state_size(self, parameter: Tensor) -> int:
        """Values kept for a parameter: three moments and the last gradient."""
        return 4 * parameter.numel()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. A closure is not supported: ValueError."""
        if closure is not None:
            raise ValueError("Adan takes no closure")
        for group in self.param_groups:
            _update(
                [p for p in group["params"] if p.grad is not None],
                group,
                self.state,
                self.found_inf,
            )
        return None


def _update(
    parameters: list[Tensor],
    group: dict[str, Any],
    state: dict[Tensor, Any],
    found_inf: Tensor | None,
) -> None:
    if not parameters:
        return
    for p in parameters:
        if not state[p]:
            state[p]["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("m", "v", "n"):
                state[p][name] = torch.zeros_like(p)
            assert p.grad is not None
            state[p]["last_gradient"] = p.grad.clone()
            if found_inf is not None:
                state[p]["last_gradient"].nan_to_num_(0, 0, 0)
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    m, v, n, last = (
        [state[p][name] for p in parameters] for name in ("m", "v", "n", "last_gradient")
    )
    if found_inf is not None:
        bad = found_inf > 0
        gradients = [torch.where(bad, old, new) for old, new in zip(last, gradients, strict=True)]
    b1, b2, b3 = group["betas"]
    steps = [state[p]["step"] for p in parameters]
    for step in steps:
        step += 1
    k = int(steps[0].item())

    change = torch._foreach_sub(gradients, last)
    torch._foreach_copy_(last, gradients)
    torch._foreach_lerp_(m, gradients, 1 - b1)
    torch._foreach_lerp_(v, change, 1 - b2)
    torch._foreach_mul_(change, b2)
    torch._foreach_add_(change, gradients)
    torch._foreach_mul_(n, b3)
    torch._foreach_addcmul_(n, change, change, value=1 - b3)

    root = torch._foreach_div(n, 1 - b3**k)
    torch._foreach_sqrt_(root)
    torch._foreach_add_(root, group["eps"])
    torch._foreach_addcdiv_(parameters, m, root, value=-group["lr"] / (1 - b1**k))
    torch._foreach_addcdiv_(parameters, v, root, value=-group["lr"] * b2 / (1 - b2**k))
    if group["weight_decay"]:
        torch._foreach_div_(parameters, 1 + group["lr"] * group["weight_decay"])
