"""What starts, in three lines, where no recipe says it."""

from collections.abc import Iterator

from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.config.run import RunConfig
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.services.events import Event, Note, Warned


def what_starts(config: RunConfig, cache: LatentCache, network: Transformer) -> Iterator[Event]:
    """The network, how it is trained, and how long: for a run that names no recipe."""
    model, training, count = config.model, config.training, cache.facts.count
    parameters = sum(p.numel() for p in network.parameters())
    masking = "some tokens masked" if config.masking.is_masked else "no token masked"
    schedule = config.lr_schedule.kind
    images = training.steps * training.batch_size
    yield Warned(
        "no recipe was named (such as -p mdtv2), so the network is a plain transformer: "
        f"{model.depth} blocks of width {model.hidden_size}, patches of {model.patch_size}, "
        f"{network.num_tokens} tokens, {parameters:,} parameters"
    )
    yield Note(
        f"it is trained with objective {config.objective.kind}, {masking}, {config.optimizer.kind} "
        f"at learning rate {config.optimizer.lr:g} ({schedule})"
    )
    yield Note(
        f"for {training.steps:,} steps of {training.batch_size} images: {images:,} images, "
        f"{images / count:,.1f} passes over this cache of {count:,}; --dry-run prints the cost"
    )
