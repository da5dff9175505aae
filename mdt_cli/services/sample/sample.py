"""From weights to images: one batch at a time, resumable, shared among processes."""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.artifacts.data_facts import codec_facts
from mdt_cli.artifacts.sample_folder.npz import NpzFolder
from mdt_cli.artifacts.sample_folder.png import GRID, Job, Pixels, PngFolder
from mdt_cli.config.sampling import InternalGuidanceConfig, NoGuidanceConfig, SamplingConfig
from mdt_cli.core.batch import Condition
from mdt_cli.core.codecs.codec import Codec, codec_from_facts, decoded
from mdt_cli.core.objectives.base import Diffusion
from mdt_cli.core.precision import float32
from mdt_cli.core.sampling.seeds import SeededNoise, drawn_labels
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.images.contact_sheet import save_grid, square
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.build.sampler import sampler_steps_of
from mdt_cli.services.events import Event, Note, SamplesDone, Warned
from mdt_cli.services.meeting import Meeting, as_only_writer
from mdt_cli.services.model import LoadedModel, load_trained
from mdt_cli.services.runtime import Autocast, computed, own_device
from mdt_cli.services.sample.batches import generate_share
from mdt_cli.services.sample.options import parse_classes, parse_seeds, taken_as, with_choices
from mdt_cli.services.work import Share

FORMATS = ("png", "npz")
GRID_ROWS, GRID_COLUMNS = 50, 10


@dataclass(frozen=True)
class SampleRequest:
    """What `mdt sample` was asked for; None means: as the run's `[sampling]` says."""

    weights: Path
    out: Path
    seeds: str = "0-63"
    classes: str | None = None
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    precision: str | None = None
    format: str = "png"
    grid: bool = False
    batch_size: int = 64
    ema: str | None = None
    codec: str | None = None
    device: str | None = None


def sample(request: SampleRequest) -> Iterator[Event]:
    """Generate what is missing in the folder; the first process ends with `SamplesDone`."""
    seeds = parse_seeds(request.seeds)
    if request.format not in FORMATS:
        raise MdtError(f"--format {request.format}: no such format", "it is png or npz")
    if request.batch_size < 1:
        raise MdtError(f"--batch-size {request.batch_size} is not above 0")
    share = Share.from_environment()
    yield from as_only_writer(request.out, True, share, _sample(request, seeds, share))


def _sample(request: SampleRequest, seeds: list[int], share: Share) -> Iterator[Event]:
    device = own_device(request.device)
    trained = load_trained(request.weights, request.ema, device)
    sampling = with_choices(
        trained.config.sampling,
        request.steps,
        request.solver,
        request.guidance,
        request.precision,
    )
    sampling = yield from _possible_guidance(request, trained, sampling)
    sampling = sampling.model_copy(update={"precision": computed(sampling.precision, device)})
    codec = codec_from_facts(trained.facts["codec"], device, request.codec)
    draw_batch = _Drawing(trained, sampling, codec, device)
    job = _job(request, trained, sampling, seeds, codec_facts(codec))
    folder = PngFolder(request.out, job) if request.format == "png" else NpzFolder(request.out, job)
    folder.check()
    said = request.classes and taken_as(request.classes, _class_names(trained))
    if said:
        yield Warned(said)

    started = time.monotonic()
    drawn = yield from generate_share(
        folder, job, draw_batch, share, Meeting(share, request.out, is_folder=True)
    )
    if drawn is None:
        return
    path = folder.finish(_facts(trained, request))
    grid = None
    if request.grid:
        grid = yield from _grid(request, job, folder)
    yield SamplesDone(
        path=str(path),
        grid=None if grid is None else str(grid),
        count=len(seeds),
        drawn=drawn,
        processes=share.of,
        seconds=time.monotonic() - started,
        weights=str(trained.path),
        ema=trained.ema,
        step=trained.step,
        settings=dict(job.settings),
    )


class _Drawing:
    """Seeds of a batch to bytes of images."""

    def __init__(
        self, trained: LoadedModel, sampling: SamplingConfig, codec: Codec, device: torch.device
    ) -> None:
        self._num_classes = trained.num_classes
        network = trained.network
        self._steps = sampler_steps_of(
            Autocast(network) if sampling.precision == "bf16" else network,
            diffusion_of(trained.loss),
            sampling,
            self._num_classes,
        )
        self._codec, self._precision = codec, sampling.precision
        self._num_steps = sampling.steps
        channels, height, width = trained.facts["latent_shape"]
        self._shape = (channels, height, width)
        self._rule, self._device = sampling.uint8, device

    def __call__(
        self, job: Job, positions: range
    ) -> Generator[tuple[int, int], None, Mapping[int, Pixels]]:
        seeds = [job.seeds[position] for position in positions]
        noise = SeededNoise(seeds, self._shape, self._num_classes)
        condition = Condition()
        if job.labels is not None:
            labels = [job.labels[k] for k in positions]
            condition = Condition(torch.tensor(labels, device=self._device))
        try:
            with float32(tf32=self._precision == "tf32"):
                latents = noise.start().to(self._device)
                states = self._steps(latents, condition, lambda: noise.step().to(self._device))
                for step, state in enumerate(states, start=1):
                    latents = state
                    yield step, self._num_steps
                images = decoded(self._codec, latents.float())
        except torch.OutOfMemoryError as error:
            raise MdtError(
                f"a batch of {job.batch_size} images does not fit in the memory of {self._device}",
                f"try --batch-size {max(1, job.batch_size // 2)}",
            ) from error
        _check_finite(images, seeds)
        return dict(zip(positions, to_uint8(images, self._rule).numpy(), strict=True))


def _check_finite(images: Tensor, seeds: list[int]) -> None:
    good_B = images.isfinite().flatten(1).all(1).tolist()
    if not all(good_B):
        raise MdtError(
            f"seed {seeds[good_B.index(False)]} gave NaN or infinite values",
            "the weights have diverged: use an earlier checkpoint, or another solver",
        )


def _possible_guidance(
    request: SampleRequest, trained: LoadedModel, sampling: SamplingConfig
) -> Generator[Event, None, SamplingConfig]:
    """The sampling with guidance that this network supports; reports what is ignored."""
    guidance = sampling.guidance
    if isinstance(guidance, NoGuidanceConfig):
        return sampling
    if isinstance(guidance, InternalGuidanceConfig):
        if not trained.config.model.early_head_at:
            raise MdtError(
                "guidance internal leaves the estimate of an early head behind, and this network "
                "has none",
                "train one with model.early_head_at, or use another kind of guidance",
            )
        if guidance.cfg_scale == 1:
            return sampling
        if not trained.num_classes:
            yield Note("the network has no classes: sampling.guidance.cfg_scale is ignored")
            inner = guidance.model_copy(update={"cfg_scale": 1.0})
            return sampling.model_copy(update={"guidance": inner})
    if not trained.num_classes:
        if request.guidance is not None:
            raise MdtError(
                f"--guidance {request.guidance:g}: this network was trained without classes, "
                "and guidance compares with and without one",
                "leave out --guidance",
            )
        yield Note("the network has no classes: sampling.guidance is ignored")
        return sampling.model_copy(update={"guidance": NoGuidanceConfig()})
    if trained.config.data.class_dropout == 0:
        yield Warned(
            "the network was trained with data.class_dropout 0, so it never saw the null class "
            "that guidance compares with; expect poor images, or use --guidance 1"
        )
    return sampling


def _job(
    request: SampleRequest,
    trained: LoadedModel,
    sampling: SamplingConfig,
    seeds: list[int],
    codec: Mapping[str, Any],
) -> Job:
    num_classes, names = trained.num_classes, _class_names(trained)
    classes = None if request.classes is None else parse_classes(request.classes, names)
    if classes is not None:
        labels: list[int] | None = [classes[seed % len(classes)] for seed in seeds]
    else:
        labels = drawn_labels(seeds, num_classes) if num_classes else None
    settings = {
        "weights": trained.digest,
        "ema": trained.ema,
        "step": trained.step,
        "objective": trained.loss.kind,
        "sampler": _sampler_facts(sampling, diffusion_of(trained.loss)),
        "guidance": sampling.guidance.model_dump(mode="json"),
        "uint8": sampling.uint8,
        "codec": codec,
        "image_size": int(trained.facts["image_size"]),
        "precision": sampling.precision,
    }
    return Job(settings, seeds, labels, names, request.batch_size, int(trained.facts["image_size"]))


def _class_names(trained: LoadedModel) -> list[str]:
    names = [str(name) for name in trained.facts.get("class_names") or []][: trained.num_classes]
    if len(names) == trained.num_classes:
        return names
    return [str(index) for index in range(trained.num_classes)]


def _sampler_facts(sampling: SamplingConfig, diffusion: Diffusion) -> dict[str, Any]:
    """The keys of `[sampling]` that this solver reads; version 0.1 had no shift."""
    facts: dict[str, Any] = {
        "solver": sampling.solver,
        "steps": sampling.steps,
        "clip": sampling.clip,
        **{key: getattr(sampling, key) for key in diffusion.level_options},
    }
    if sampling.solver == "dpm++3s":
        # It visits numbers between the training times.
        facts.pop("spacing", None)
    if facts.get("shift") == 1:
        del facts["shift"]
    if sampling.solver == "ddim":
        facts["eta"] = sampling.eta
    return facts


def _facts(trained: LoadedModel, request: SampleRequest) -> dict[str, Any]:
    """What `samples.json` says beyond the settings; it may differ between two same jobs."""
    return {
        "weights_path": str(trained.path),
        "classes": request.classes if request.classes is not None else "drawn from each seed",
        "class_names": list(trained.facts.get("class_names") or []),
        "torch": torch.__version__,
    }


def _grid(
    request: SampleRequest, job: Job, folder: PngFolder | NpzFolder
) -> Generator[Event, None, Path]:
    """`grid.png` beside the samples: a row per class asked for, else the first in a square."""
    path = request.out / GRID
    if request.classes is None or job.labels is None:
        shown = range(min(len(job.seeds), GRID_COLUMNS**2))
        images = folder.images(shown)
        save_grid(path, square([images[position] for position in shown]), None)
        if len(shown) < len(job.seeds):
            yield Note(f"the grid shows the first {len(shown)} of {len(job.seeds)} images")
        return path
    rows: dict[int, list[int]] = {}
    for position, label in enumerate(job.labels):
        if label in rows or len(rows) < GRID_ROWS:
            rows.setdefault(label, [])
            if len(rows[label]) < GRID_COLUMNS:
                rows[label].append(position)
    found = folder.images({position for row in rows.values() for position in row})
    ordered = sorted(rows)
    save_grid(
        path,
        [[found[position] for position in rows[label]] for label in ordered],
        [job.class_names[label] for label in ordered],
    )
    count = sum(len(row) for row in rows.values())
    if count < len(job.seeds):
        yield Note(f"the grid shows {count} of {len(job.seeds)} images, {len(rows)} classes")
    return path
