"""The Inception score: how sure a classifier is of each image, and how varied its answers are."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Dhariwal & Nichol 2021 score 50,000 images in splits of 5,000.
SPLIT = 5000
ROWS = 4096


@dataclass(frozen=True)
class InceptionScore:
    """Mean over splits and their standard deviation (None for one split)."""

    value: float
    deviation: float | None
    num_splits: int


def inception_score(
    features_ND: Tensor, head_CD: Tensor, bias_C: Tensor | None, split: int = SPLIT
) -> InceptionScore:
    """exp of the mean KL divergence of p(y|x) from p(y) (Salimans et al. 2016, section 4).

    Rows are cut, in their order, into N // split parts (at least one) that differ by at most one
    row: exactly the published splits where N is a multiple of 5,000. Float64.
    """
    num_splits = max(1, len(features_ND) // split)
    scores = torch.tensor(
        [_one_split(part_ND, head_CD, bias_C) for part_ND in features_ND.tensor_split(num_splits)],
        dtype=torch.float64,
    )
    deviation = scores.std(correction=0).item() if num_splits > 1 else None
    return InceptionScore(scores.mean().item(), deviation, num_splits)


def _one_split(features_ND: Tensor, head_CD: Tensor, bias_C: Tensor | None) -> float:
    """The mean of KL(p(y|x) || p(y)) is mean sum p log p - sum q log q, with q the mean of p."""
    negative_entropy = torch.zeros((), dtype=torch.float64)
    total_C = torch.zeros(len(head_CD), dtype=torch.float64)
    weight_CD = head_CD.double()
    offset_C = bias_C.double() if bias_C is not None else 0.0
    for rows_ND in features_ND.split(ROWS):
        log_p_NC = (rows_ND.double() @ weight_CD.T + offset_C).log_softmax(1)
        p_NC = log_p_NC.exp()
        negative_entropy += (p_NC * log_p_NC).sum()
        total_C += p_NC.sum(0)
    q_C = total_C / len(features_ND)
    divergence = negative_entropy / len(features_ND) - torch.special.xlogy(q_C, q_C).sum()
    return divergence.exp().item()
