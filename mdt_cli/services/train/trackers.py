"""TensorBoard and wandb, where asked for: a broken tracker never ends a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdt_cli.config.training import LogConfig


class Trackers:
    """Sends numbers on; after its first failure a tracker is dropped, with one warning."""

    def __init__(self, log: LogConfig, run: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self.warnings: list[str] = []
        self._tensorboard: Any = None
        self._wandb: Any = None
        if log.tensorboard:
            self._tensorboard = self._try("tensorboard", lambda: _open_tensorboard(run))
        if log.wandb:
            self._wandb = self._try("wandb", lambda: _open_wandb(run, run_id, config))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._tensorboard is not None:
            writer = self._tensorboard

            def write() -> bool:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)
                writer.flush()
                return True

            if self._try("tensorboard", write) is None:
                self._tensorboard = None
        if self._wandb is not None:
            run = self._wandb
            if self._try("wandb", lambda: (run.log(dict(numbers), step=step), True)) is None:
                self._wandb = None

    def close(self) -> None:
        if self._tensorboard is not None:
            self._try("tensorboard", self._tensorboard.close)
        if self._wandb is not None:
            self._try("wandb", self._wandb.finish)

    def _try(self, name: str, action: Any) -> Any:
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
            self.warnings.append(f"{name} is off: {type(error).__name__}: {error}")
            return None


def _open_tensorboard(run: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"))


def _open_wandb(run: Path, run_id: str, config: Mapping[str, Any]) -> Any:
    import wandb

    return wandb.init(dir=str(run), id=run_id, name=run.name, resume="allow", config=dict(config))
