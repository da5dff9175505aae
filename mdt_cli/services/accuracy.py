"""How often a classifier in training is right on held-out images."""

from collections.abc import Mapping

import torch

from mdt_cli.core.checkpoint import ONLINE
from mdt_cli.core.ema import Swapped
from mdt_cli.core.objectives.classification import hits
from mdt_cli.services.learning import TOP
from mdt_cli.services.trainer import Trainer


def held_out_accuracy(trainer: Trainer) -> Mapping[str, float]:
    """Percent of the held-out images by weights: `top1/online`, `top5/0.9999`, ..."""
    percent: dict[str, float] = {}
    trainer.network.eval()
    _add(percent, ONLINE, trainer)
    for decay, ema in trainer.emas.items():
        with Swapped(trainer.network, ema.tensors):
            _add(percent, f"{decay:g}", trainer)
    trainer.network.train()
    return percent


@torch.no_grad()
def _add(percent: dict[str, float], weights: str, trainer: Trainer) -> None:
    rows = trainer.data.split.held_out
    right = dict.fromkeys(TOP, 0)
    for part in rows.split(trainer.config.validation.batch_size):
        read = trainer.cache.read(part)
        # The mode of the posterior: one answer for each image.
        latents = read.mean.to(trainer.device)
        times_B = torch.zeros(len(part), device=trainer.device)
        logits_BK = trainer.network(latents, times_B, None)
        for k in TOP:
            right[k] += int(hits(logits_BK, read.label.to(trainer.device), k).sum())
    for k in TOP:
        percent[f"top{k}/{weights}"] = 100 * right[k] / len(rows)
