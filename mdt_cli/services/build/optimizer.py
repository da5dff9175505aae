"""From the [optimizer] table to a torch optimizer."""

from typing import Any, assert_never

import torch

from mdt_cli.config.training import AdamWConfig, AdanConfig
from mdt_cli.core.optim.adamw import AdamW
from mdt_cli.core.optim.adan import Adan

# How the names of position tables and class tokens end.
TOKENS = ("positions_ND", "positions_ED", "class_token")


def build_optimizer(table: AdamWConfig | AdanConfig, network: torch.nn.Module) -> AdamW | Adan:
    """One optimizer of every parameter that learns.

    `lr_scale` of a group is its share of the learning rate. `state_size(parameter)` is the number
    of values it will keep. Where its attribute `found_inf` is 1, a step ignores the gradient.
    """
    parameters = _parameter_groups(table, network)
    match table:
        case AdamWConfig():
            return AdamW(
                parameters,
                lr=table.lr,
                betas=table.betas,
                eps=table.eps,
                weight_decay=table.weight_decay,
                fused=True,
            )
        case AdanConfig():
            return Adan(
                parameters,
                lr=table.lr,
                betas=table.betas,
                eps=table.eps,
                weight_decay=table.weight_decay,
            )
        case _:
            assert_never(table)


def _parameter_groups(
    table: AdamWConfig | AdanConfig, network: torch.nn.Module
) -> list[dict[str, Any]]:
    """Groups by learning rate, and by weight decay where vectors or tokens do not decay."""
    learn = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    depth = len({name.split(".")[1] for name, _ in learn if name.startswith("blocks.")})
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in learn:
        scale = table.layer_decay ** (depth + 1 - _layer(name, depth))
        decays = (table.decay_1d or parameter.ndim > 1) and (
            table.decay_tokens or not name.endswith(TOKENS)
        )
        groups.setdefault((scale, decays), []).append(parameter)
    return [
        {"params": members, "lr_scale": scale, **({} if decays else {"weight_decay": 0.0})}
        for (scale, decays), members in groups.items()
    ]


def _layer(name: str, depth: int) -> int:
    """0 for what is in front of the blocks, k + 1 for block k, depth + 1 for what is behind."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0]) + 1
    return 0 if first in ("patches", "extras", "positions_ND", "time", "label") else depth + 1
