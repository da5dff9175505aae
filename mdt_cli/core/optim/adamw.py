"""AdamW of torch, which states here how much it keeps (Loshchilov & Hutter 2019)."""

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """Heeds `found_inf` when it is fused: where that is 1, parameters and state stay."""

    def state_size(self, parameter: Tensor) -> int:
        """Values kept for a parameter: the two moments."""
        return 2 * parameter.numel()
