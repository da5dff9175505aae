"""TensorBoard and wandb, where asked for: a broken tracker never ends a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdt_cli.config.training import LogConfig


class Trackers:
    """Sends numbers to those that `log` names; after its first failure a tracker is dropped."""

    def __init__(self, log: LogConfig, run: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self._warnings: list[str] = []
        self._tensorboard: Any = None
        self._wandb: Any = None
        if log.tensorboard:
            self._tensorboard = self._try("tensorboard", lambda: _open_tensorboard(run))
        if log.wandb:
            self._wandb = self._try("wandb", lambda: _open_wandb(run, run_id, config))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
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

    def new_warnings(self) -> list[str]:
        """What went wrong since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def close(self) -> None:
        """Let the trackers finish; to be called once."""
        if self._tensorboard is not None:
            self._try("tensorboard", self._tensorboard.close)
        if self._wandb is not None:
            self._try("wandb", self._wandb.finish)

    def _try(self, name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training continues
            self._warnings.append(f"{name} is disabled: {type(error).__name__}: {error}")
            return None


def _open_tensorboard(run: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"))


def _open_wandb(run: Path, run_id: str, config: Mapping[str, Any]) -> Any:
    import wandb

    return wandb.init(dir=str(run), id=run_id, name=run.name, resume="allow", config=dict(config))
