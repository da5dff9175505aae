"""Exponential moving averages (EMA) of a network's parameters."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

# ema-pytorch's warm-up: the updates that only copy, and the exponent after them.
COPIES, POWER = 101, 2 / 3


def decay_at(update: int, decay: float, warmup: str) -> float:
    """The weight of the old EMA value in update number `update` (from 1).

    none: `decay` throughout. ramp: at most (1 + k) / (10 + k) after k updates. power: 0 in the
    first 101 updates, then at most 1 - (k - 100)^(-2/3), as in MaskDM. ValueError for another name.
    """
    match warmup:
        case "none":
            return decay
        case "ramp":
            return min(decay, (1 + update) / (10 + update))
        case "power":
            return min(decay, 1 - max(1, update - COPIES + 1) ** -POWER)
        case _:
            raise ValueError(f"no such EMA warm-up: {warmup}")


class Ema:
    """EMA weights of one network, updated after every optimizer step.

    Starts as a copy of the initial weights (DiT, MDT, MaskDiT). Kept in float32 on the device
    of the network. `warmup` as in `decay_at`.
    """

    def __init__(self, network: nn.Module, decay: float, warmup: str) -> None:
        self.decay, self._warmup = decay, warmup
        self.tensors = {
            name: parameter.detach().float().clone()
            for name, parameter in network.named_parameters()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Blend in the parameters reached by optimizer step number `step` (from 1)."""
        decay = decay_at(step, self.decay, self._warmup)
        news = [parameter.detach().float() for parameter in network.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), news, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the EMA weights; KeyError where a parameter is missing in `tensors`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


class AveragedModule:
    """A copy of `module` whose parameters follow it; a target for losses, without gradient."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._source, self._decay = module, decay
        self.module = copy.deepcopy(module).requires_grad_(False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, without gradient; they share memory with the module."""
        return {name: p.detach() for name, p in self.module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """theta' <- decay theta' + (1 - decay) theta, after an optimizer step."""
        news = [parameter.detach() for parameter in self._source.parameters()]
        torch._foreach_lerp_(list(self.module.parameters()), news, 1 - self._decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the parameters; KeyError where one is missing in `tensors`."""
        for name, parameter in self.module.named_parameters():
            parameter.copy_(tensors[name])


class Swapped:
    """`with Swapped(network, tensors):` gives the network other weights until the block ends."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self._network, self._tensors = network, tensors
        self._own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        self._own = {name: p.detach().clone() for name, p in self._network.named_parameters()}
        self._put(self._tensors)

    def __exit__(self, *_: object) -> None:
        self._put(self._own)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        parameters: Iterable[tuple[str, nn.Parameter]] = self._network.named_parameters()
        for name, parameter in parameters:
            parameter.copy_(tensors[name])
