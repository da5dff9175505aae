"""All stages on the embedded digits, by the services behind the commands."""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mdt_cli.config.load import load_config
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.encode import encode_latents
from mdt_cli.services.encode.request import EncodeRequest
from mdt_cli.services.evaluate.evaluate import evaluate
from mdt_cli.services.evaluate.request import EvaluateRequest
from mdt_cli.services.events import (
    CacheDone,
    EvaluationDone,
    Event,
    ExportDone,
    Note,
    QuickstartDone,
    SamplesDone,
    StageDone,
    StageStarted,
    TrainingDone,
    Warned,
)
from mdt_cli.services.export.export import ExportRequest, export
from mdt_cli.services.sample.sample import SampleRequest, sample
from mdt_cli.services.train.start import finetune, pretrain, starting_config

NUM_SAMPLES = 500


@dataclass(frozen=True)
class Stage:
    """A command as a person would type it, and the service call it stands for."""

    words: tuple[str, ...]
    events: Callable[[], Iterator[Event]]

    @property
    def name(self) -> str:
        """The command's own name."""
        return self.words[0]

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return "mdt " + shlex.join(self.words)


def digits() -> Path:
    """The zip of 1,797 handwritten digits that comes with `mdt`."""
    return Path(str(files("mdt_cli") / "assets" / "digits.zip"))


def stages(out: Path, device: str | None = None, samples: int = NUM_SAMPLES) -> Iterator[Stage]:
    """Stages in order, built one by one: the export uses the report if there is one."""
    images, cache, first, last = digits(), out / "cache", out / "pretrain", out / "finetune"
    drawn, model = out / "samples", out / "model"

    def tuned() -> Iterator[Event]:
        loaded = starting_config(first, None, ["digits-finetune"], [])
        return finetune(cache, last, first, None, loaded, device=device)

    seeds = f"0-{samples - 1}"
    yield Stage(
        ("encode-latents", str(images), str(cache), "--codec", "pixels", "--size", "8"),
        lambda: encode_latents(EncodeRequest(images, cache, codec="pixels", size=8)),
    )
    yield Stage(
        ("pretrain", str(cache), str(first), "-p", "quickstart", "-p", "digits"),
        lambda: pretrain(cache, first, load_config(["quickstart", "digits"], []), device=device),
    )
    yield Stage(
        ("finetune", str(cache), str(last), "--from", str(first), "-p", "digits-finetune"),
        tuned,
    )
    yield Stage(
        ("sample", str(last), str(drawn), "--seeds", seeds, "--classes", "all", "--grid"),
        lambda: sample(
            SampleRequest(last, drawn, seeds=seeds, classes="all", grid=True, device=device)
        ),
    )
    yield Stage(
        ("evaluate", str(drawn), str(images)),
        lambda: evaluate(EvaluateRequest(drawn, images, device=device)),
    )
    report = drawn / "report.json"
    scored = report.is_file()
    yield Stage(
        (
            *("export", str(last), str(model), "--format", "diffusers"),
            *(("--report", str(report)) if scored else ()),
        ),
        lambda: export(ExportRequest(last, model, report=report if scored else None)),
    )


def quickstart(out: Path, device: str | None = None, samples: int = NUM_SAMPLES) -> Iterator[Event]:
    """Run every stage, or what is missing of them; ends with QuickstartDone."""
    results: list[StageDone] = []
    scores: dict[str, float] = {}
    for stage in stages(out, device, samples):
        yield StageStarted(stage.name, stage.command)
        begun = time.monotonic()
        if stage.name == "export" and (out / "model").exists():
            yield Note(f"{out / 'model'} already exists")
            results.append(StageDone(stage.name, 0.0, 0, str(out / "model")))
            continue
        images, path = 0, ""
        try:
            for event in stage.events():
                yield event
                match event:
                    case CacheDone():
                        images, path = (0 if event.unchanged else event.count), event.path
                    case TrainingDone():
                        images, path = event.images, str(event.run)
                    case SamplesDone():
                        images, path = event.drawn, event.grid or event.path
                    case EvaluationDone():
                        path = event.path
                        images = event.report["samples"]["count"]
                        scores = {k: m["value"] for k, m in event.report["metrics"].items()}
                    case ExportDone():
                        path = event.path
        except MdtError as error:
            if stage.name != "evaluate":
                raise
            # Scores need an optional package; the remaining stages do not.
            yield Warned(f"no scores: {error}")
        results.append(StageDone(stage.name, time.monotonic() - begun, images, path))
    yield QuickstartDone(tuple(results), scores)
