"""What services report while they work: frozen facts, which only the command line shows.

A path is a `Path` in the events of training, and a `str` in the others, which go into JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class Warned:
    """A sentence that the user must not miss. from_all: from every process, not the first alone."""

    text: str
    from_all: bool = False


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units, those kept from an earlier run included.

    ahead: how many more the work on the present ones is worth.
    """

    done: int
    total: int
    note: str = ""
    ahead: float = 0.0


@dataclass(frozen=True)
class StepDone:
    """Optimizer step `step` (from 1) of `steps` is done; numbers are the logged means."""

    step: int
    steps: int
    loss: float | None


@dataclass(frozen=True)
class CheckpointSaved:
    """The checkpoint of `step` is complete in the folder `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Validated:
    """Held-out losses by name, such as `full/online` and `masked/0.9999`."""

    step: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Classified:
    """Held-out accuracy in percent, such as `top1/online` and `top5/0.9999`."""

    step: int
    percent: Mapping[str, float]


@dataclass(frozen=True)
class PreviewSaved:
    """Images of the first EMA weights at `step` are in the PNG `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class ScoresDone:
    """Samples of step `step` were scored in `seconds`; names as in reports."""

    step: int
    scores: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class TrainingDone:
    """`seconds` and `images` count this start alone; `held_out` is the last held-out loss."""

    run: Path
    step: int
    seconds: float
    images: int
    loss: float | None
    held_out: Mapping[str, float]
    # Of a classifier: what it gained, and at what cost (see artifacts/training_log.py).
    accuracy: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationDone:
    """The report as it was written to `path`; `page` is the same as HTML."""

    report: dict[str, Any]
    path: str
    page: str | None = None


@dataclass(frozen=True)
class CacheDone:
    """A latent cache is complete. `skipped` is (relative path, reason); `bytes` is all its files.

    `unchanged`: it was complete before, and only its checksums were compared.
    """

    path: str
    count: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    codec: str
    image_size: int
    latent_shape: tuple[int, int, int]
    modes: dict[str, int]
    enlarged: int
    skipped: tuple[tuple[str, str], ...]
    bytes: int
    digest: str
    unchanged: bool


@dataclass(frozen=True)
class CacheShareDone:
    """One process of several has written its share; the first one writes the manifest."""

    path: str
    rank: int
    shards: int


@dataclass(frozen=True)
class ExportDone:
    """A model was exported. `parity` is the largest difference of its answers from ours."""

    path: str
    format: str
    parity: float
    parameters: int
    step: int
    ema: str
    bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class SamplesDone:
    """All samples are at `path` (a folder, or the npz in it).

    This process generated `drawn` of `count`. `settings` are those of `samples.json`.
    """

    path: str
    grid: str | None
    count: int
    drawn: int
    processes: int
    seconds: float
    weights: str
    ema: str
    step: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class StageStarted:
    """A stage of the quickstart begins; `command` does the same by hand."""

    stage: str
    command: str


@dataclass(frozen=True)
class StageDone:
    """`images` were encoded, trained on, generated or scored; 0 where nothing was left to do."""

    stage: str
    seconds: float
    images: int
    path: str


@dataclass(frozen=True)
class QuickstartDone:
    """Every stage is done; `scores` are the metrics of the evaluation."""

    stages: tuple[StageDone, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationShareDone:
    """One process of several has extracted its share; the first one scores."""

    rank: int
    of: int


@dataclass(frozen=True)
class ImportDone:
    """Official weights are ours at `path`; `report` is what `report_path` holds."""

    path: str
    report_path: str
    step: int
    ema: str
    report: dict[str, Any]


Event = (
    Note
    | Warned
    | Progress
    | StepDone
    | CheckpointSaved
    | Validated
    | Classified
    | PreviewSaved
    | ScoresDone
    | TrainingDone
    | EvaluationDone
    | CacheDone
    | CacheShareDone
    | ExportDone
    | SamplesDone
    | StageStarted
    | StageDone
    | QuickstartDone
    | EvaluationShareDone
    | ImportDone
)
