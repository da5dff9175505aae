"""Classification of clean images, without noise or time. There is nothing to sample.

Axes: B batch, K classes.
"""

import torch.nn.functional as F
from torch import Tensor

from mdt_cli.core.batch import Batch
from mdt_cli.core.objectives.base import NoiseFree


class Classification(NoiseFree):
    """The answer is a logit per class; the error is the cross-entropy with smoothed labels.

    `label_smoothing`: the share of a label that is spread over all classes (Szegedy et al. 2016).
    """

    kind = "classification"
    classifies = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def error(self, output: Tensor, batch: Batch, noisy: Tensor) -> Tensor:
        """[B, 1]"""
        if batch.condition.y_B is None:
            raise ValueError("a classifier learns from labels")
        loss_B = F.cross_entropy(
            output.float(),
            batch.condition.y_B,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return loss_B.unsqueeze(1)


def hits(logits_BK: Tensor, y_B: Tensor, k: int) -> Tensor:
    """bool [B]: whether the label is among the k largest logits (all of them for k >= K)."""
    best_Bk = logits_BK.topk(min(k, logits_BK.shape[1]), dim=1).indices
    return (best_Bk == y_B.unsqueeze(1)).any(1)
