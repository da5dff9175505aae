"""What validation, previews and online metrics are shown of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.optim.ema import Swapped
from mdt_cli.services.events import Progress
from mdt_cli.services.train.batches import TrainData

# What is said where a signal ends a look.
CUT = "A look between two steps was not finished."


@dataclass(frozen=True)
class Look:
    """A run as it stands after `step`. `averages`: EMA weights by name, the first ones the default.

    Whoever looks draws random numbers from streams of its own: the bits of the run do not change.
    """

    network: Transformer
    averages: Mapping[str, Mapping[str, Tensor]]
    data: TrainData
    step: int
    folder: Path

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def progress(self, note: str) -> Progress:
        """What the run does at this step besides training."""
        return Progress(self.step, self.data.config.training.steps, note)

    @property
    def num_classes(self) -> int:
        """Classes that the network knows."""
        return self.data.cache.facts.num_classes if self.data.conditional else 0

    @contextmanager
    def evaluating(self, average: str | None) -> Iterator[None]:
        """Within, the network is in evaluation mode and has EMA weights; None: its own."""
        self.network.eval()
        try:
            if average is None:
                yield
            else:
                with Swapped(self.network, self.averages[average]):
                    yield
        finally:
            self.network.train()

    @property
    def first_average(self) -> str:
        """The EMA weights that are shown where only one kind is."""
        return next(iter(self.averages))
