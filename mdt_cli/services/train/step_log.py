"""The records of `log.jsonl`: means over the steps since the last record."""

import time
from typing import Any

import torch
from torch import Tensor

from mdt_cli.artifacts import run_folder
from mdt_cli.services.train.placement import Placement
from mdt_cli.services.train.state import TrainState
from mdt_cli.services.train.trackers import Trackers

# What a step reports that is no loss.
FACTS = ("grad_norm", "mask_ratio")


class StepLog:
    """Collects what steps report; `loss` is the mean of the last record, None before the first."""

    def __init__(self, placement: Placement, trackers: Trackers) -> None:
        self._placement, self._trackers = placement, trackers
        self._window: list[dict[str, Tensor]] = []
        self._since = time.monotonic()
        self.loss: float | None = None

    def start(self) -> None:
        """Count the seconds of the first record from now."""
        self._since = time.monotonic()

    def add(self, state: TrainState, reported: dict[str, Tensor]) -> float | None:
        """The mean loss where the step has a record (every log.every, and the last), else None."""
        self._window.append(reported)
        config = state.data.config
        if state.step % config.log.every and state.step != config.training.steps:
            return None
        means: dict[str, float] = {}
        for name in self._window[0]:
            values = [entry[name].float().to(self._placement.device) for entry in self._window]
            means[name] = self._placement.mean(torch.stack(values).mean())
        losses = {name: mean for name, mean in means.items() if name not in FACTS}
        self.loss = sum(losses.values())
        images = len(self._window) * config.training.batch_size
        record: dict[str, Any] = {
            "step": state.step,
            "images": state.images,
            "loss": self.loss,
            **{f"loss/{name}": mean for name, mean in losses.items()},
            "grad_norm": means["grad_norm"],
            "lr": state.lr,
            **({"mask_ratio": means["mask_ratio"]} if config.masking.is_masked else {}),
            "images_per_second": images / (time.monotonic() - self._since),
        }
        if self._placement.is_first:
            run_folder.append(state.folder / run_folder.LOG, record)
            self._trackers.log(state.step, {k: v for k, v in record.items() if k != "step"})
        self._window.clear()
        self._since = time.monotonic()
        return self.loss
