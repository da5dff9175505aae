"""What tells the network the time and the class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 128
MAX_PERIOD = 10000.0


class TimeEmbedding(nn.Module):
    """Sinusoids [cos, sin] of the raw time, 256 wide, through a two-layer MLP (DiT)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * FREQUENCIES, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, t_B: Tensor) -> Tensor:
        k = torch.arange(FREQUENCIES, dtype=torch.float32, device=t_B.device)
        angle = t_B.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * k / FREQUENCIES)
        waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One row per class and a last one, index `num_classes`, for "no class"."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y_B: Tensor) -> Tensor:
        return self.table(y_B)
