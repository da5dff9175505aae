"""The two MLPs of a block.

Axes: B batch, N tokens of this pass, D channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mdt_cli.core.model.shape import BlockStyle


class Mlp(nn.Module):
    """Linear, GELU, Linear. `gelu`: "tanh" for the approximation, "none" for the exact one."""

    def __init__(self, hidden_size: int, inner_size: int, gelu: str = "tanh") -> None:
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        """[B, N, D] to the same shape."""
        return self.fc2(F.gelu(self.fc1(x_BND), approximate=self.gelu))


class GatedMlp(nn.Module):
    """SwiGLU: W2 (silu(a) * b) with [a, b] = W1 x (Shazeer 2020), biases included."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 2 * inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        """[B, N, D] to the same shape."""
        gate, value = self.fc1(x_BND).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


def make_mlp(hidden_size: int, inner_size: int, style: BlockStyle, gelu: str) -> nn.Module:
    """The MLP that a style names. A gated one is two thirds as wide, so that it costs as much."""
    if style.mlp == "swiglu":
        return GatedMlp(hidden_size, int(2 / 3 * inner_size))
    return Mlp(hidden_size, inner_size, gelu)
