"""Train from fresh weights."""

from collections.abc import Iterator
from pathlib import Path

from mdt_cli.config.load import Loaded
from mdt_cli.services.events import Event
from mdt_cli.services.training_loop import TrainRequest, train


def pretrain(
    cache: Path, run: Path, loaded: Loaded, fresh: int = 0, device: str | None = None
) -> Iterator[Event]:
    """Train on `cache` into `run`, or go on with what `run` holds; ends with TrainingDone."""
    yield from train(TrainRequest(cache, run, loaded, "pretrain", fresh, device))
