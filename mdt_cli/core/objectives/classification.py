"""No noise and no time: the network names the class of an image. There is nothing to sample.

Axes: B batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_cli.core.objectives.base import Objective


class Classification(Objective):
    """The answer is a logit per class; the error is the cross-entropy with smoothed labels.

    `label_smoothing`: the share of a label that is spread over all classes (Szegedy et al. 2016).
    """

    kind = "classification"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count)

    def quantile_time(self, share_B: Tensor) -> Tensor:
        return torch.zeros_like(share_B)

    def add_noise(self, clean: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return clean

    def network_input(self, noisy: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t_B.to(noisy.device)

    def denoised(self, output: Tensor, noisy: Tensor, t_B: Tensor) -> Tensor:
        raise ValueError("a classifier has no clean estimate")

    def error(
        self,
        output: Tensor,
        clean: Tensor,
        noise: Tensor,
        noisy: Tensor,
        t_B: Tensor,
        y_B: Tensor | None = None,
    ) -> Tensor:
        """[B, 1]"""
        if y_B is None:
            raise ValueError("a classifier learns from labels")
        loss_B = F.cross_entropy(
            output.float(), y_B, reduction="none", label_smoothing=self.label_smoothing
        )
        return loss_B.unsqueeze(1)


def hits(logits_BK: Tensor, y_B: Tensor, k: int) -> Tensor:
    """bool [B]: whether the label is among the k largest logits (all of them for k >= K)."""
    best_Bk = logits_BK.topk(min(k, logits_BK.shape[1]), dim=1).indices
    return (best_Bk == y_B.unsqueeze(1)).any(1)
