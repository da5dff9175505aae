"""The Inception score: how sure a classifier is of each image, and how varied its answers are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdt_cli.metrics.features import Entry, Features, entry, present

# Dhariwal & Nichol 2021 score 50,000 images in splits of 5,000.
SPLIT = 5000
ROWS = 4096


@dataclass(frozen=True)
class InceptionScore:
    """Mean over splits, their standard deviation (None for one split), and the mean's error."""

    value: float
    deviation: float | None
    num_splits: int
    standard_error: float


def inception_score(
    features_ND: Tensor, head_CD: Tensor, bias_C: Tensor | None, split: int = SPLIT
) -> InceptionScore:
    """exp of the mean KL divergence of p(y|x) from p(y) (Salimans et al. 2016, section 4).

    Rows are cut, in their order, into N // split parts (at least one) that differ by at most one
    row: exactly the published splits where N is a multiple of 5,000. Float64. The error is the
    infinitesimal jackknife's (Jaeckel 1972): an image pulls the mean divergence by its own.
    """
    num_splits = max(1, len(features_ND) // split)
    scores, errors = torch.tensor(
        [_one_split(part_ND, head_CD, bias_C) for part_ND in features_ND.tensor_split(num_splits)],
        dtype=torch.float64,
    ).unbind(1)
    deviation = scores.std(correction=0).item() if num_splits > 1 else None
    error = (errors**2).sum().sqrt().item() / num_splits
    return InceptionScore(scores.mean().item(), deviation, num_splits, error)


def _one_split(features_ND: Tensor, head_CD: Tensor, bias_C: Tensor | None) -> tuple[float, float]:
    """The score and its error, from KL(p(y|x) || q) of each row with q the mean of p(y|x)."""
    total_C = torch.zeros(len(head_CD), dtype=torch.float64)
    for rows_ND in features_ND.split(ROWS):
        total_C += _log_p(rows_ND, head_CD, bias_C).exp().sum(0)
    q_C = total_C / len(features_ND)
    divergences = []
    for rows_ND in features_ND.split(ROWS):
        log_p_NC = _log_p(rows_ND, head_CD, bias_C)
        p_NC = log_p_NC.exp()
        # Where p is 0 it counts nothing, whatever q is: q is 0 only where every p is.
        divergences.append((p_NC * log_p_NC - torch.special.xlogy(p_NC, q_C)).sum(1))
    divergence_N = torch.cat(divergences)
    score = divergence_N.mean().exp()
    error = score * divergence_N.std(correction=0) / len(divergence_N) ** 0.5
    return score.item(), error.item()


def _log_p(rows_ND: Tensor, head_CD: Tensor, bias_C: Tensor | None) -> Tensor:
    logits_NC = rows_ND.double() @ head_CD.double().T
    return (logits_NC if bias_C is None else logits_NC + bias_C.double()).log_softmax(1)


def classified(features: Features) -> dict[str, Entry]:
    """`is`: the score of the samples by the extractor's class layer."""
    rows_ND = present(features.samples.rows_ND, "features of the samples")
    found = inception_score(rows_ND, present(features.head_CD, "class layer"), features.bias_C)
    rule = "infinitesimal jackknife over the samples"
    return {
        "is": {
            **entry(found.value, found.standard_error, rule, len(rows_ND), None),
            "deviation": found.deviation,
            "splits": found.num_splits,
            "split_rule": f"max(1, N // {SPLIT}) equal parts, in an order set by the pixels' "
            "digests",
        }
    }
