"""What a configuration costs, before anything runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.config.run import RunConfig
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.services.build.masking import build_selector, build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.optimizer import build_optimizer
from mdt_cli.services.build.ratio import build_mask_ratio
from mdt_cli.services.model import TRAINING_ONLY

BYTES = 4


@dataclass(frozen=True)
class RunCost:
    """Derived facts. FLOPs count a multiply-add as two; backward as twice the forward."""

    config: Mapping[str, Any]
    tokens: int
    kept: str
    parameters: int
    training_only: int
    call_flops: int
    train_flops: int
    images: int
    run_flops: int
    cache_images: int
    cache_bytes: int
    checkpoint_bytes: int
    kept_bytes: int

    def derived(self) -> dict[str, Any]:
        """All but the configuration, as JSON."""
        return {key: value for key, value in asdict(self).items() if key != "config"}


def plan(cache_path: Path, config: RunConfig) -> RunCost:
    """Count parameters, tokens, FLOPs and bytes; weights are never allocated."""
    cache = open_cache(cache_path)
    facts = cache.facts
    with torch.device("meta"):
        network = build_network(config, facts.latent_shape, facts.num_classes)
    parameters = {name: p.numel() for name, p in network.named_parameters()}
    total = sum(parameters.values())
    training_only = sum(n for name, n in parameters.items() if name.startswith(TRAINING_ONLY))
    ratio = build_mask_ratio(config.masking)
    lowest, highest = ratio.extremes(config.schedule_steps)
    kept = "all"
    if config.masking.is_masked:
        selector = build_selector(config.masking, network.grid)
        most, least = (selector.num_kept(network.grid, r) for r in (lowest, highest))
        kept = str(most) if least == most else f"{least} to {most}"
    train = train_flops(network, config, facts.latent_shape)
    images = config.training.steps * config.training.batch_size
    optimizer = build_optimizer(config.optimizer, network)
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    kept_state = sum(optimizer.state_size(p) for p in learning)
    checkpoint = BYTES * (total * (1 + len(config.ema.names)) + kept_state)
    keep = config.checkpoint
    written = -(-config.training.steps // keep.every)
    for_good = config.training.steps // keep.keep_every if keep.keep_every else 0
    return RunCost(
        config=config.model_dump(mode="json"),
        tokens=network.num_tokens,
        kept=kept,
        parameters=total,
        training_only=training_only,
        call_flops=_flops(network, facts.latent_shape, None),
        train_flops=train,
        images=images,
        run_flops=train * images,
        cache_images=facts.count,
        cache_bytes=sum(f.stat().st_size for f in cache_path.iterdir() if f.is_file()),
        checkpoint_bytes=checkpoint,
        kept_bytes=checkpoint * min(written, keep.keep_last + for_good),
    )


def _flops(network: Transformer, latent_shape: tuple[int, int, int], keep: int | None) -> int:
    """Of one forward pass on one image, by torch's own counter on tensors without data."""
    x = torch.empty(1, *latent_shape, device="meta")
    t, y = torch.empty(1, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    subset = None
    if keep is not None:
        kept_BK = torch.empty(1, keep, dtype=torch.int64, device="meta")
        subset = TokenSubset(kept_BK, network.num_tokens)
    with FlopCounterMode(display=False) as counter:
        network(x, t, y, subset, x)
    return counter.get_total_flops()


def teacher_flops(network: Transformer, latent_shape: tuple[int, int, int]) -> int:
    """Of one pass of the EMA decoder on one image."""
    x = torch.empty(1, *latent_shape, device="meta")
    y_B = torch.empty(1, dtype=torch.int64, device="meta")
    c_BD = network(x, x.new_empty(1), y_B).condition
    with FlopCounterMode(display=False) as counter:
        network.patch_decoder()(x, c_BD)
    return counter.get_total_flops()


def train_flops(network: Transformer, config: RunConfig, latent_shape: tuple[int, int, int]) -> int:
    """Of one image in one optimizer step, over all views; `network` is on the meta device."""
    selector = build_selector(config.masking, network.grid)
    ratio = build_mask_ratio(config.masking).mean(config.schedule_steps)
    total = 0
    for view in build_views(config):
        keep = None if view.tokens == "all" else selector.num_kept(network.grid, ratio)
        total += 3 * _flops(network, latent_shape, keep)
        branches = sum(term.target.startswith("teacher") for term in view.terms)
        if branches:
            total += branches * teacher_flops(network, latent_shape)
    return total
