"""What `pretrain` and `finetune` show of a run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mdt_cli.cli.output import emit, emit_json, human_bytes, human_seconds, table, talk
from mdt_cli.cli.progress import Bar, shown_events


def training_display(bar: Bar) -> Callable[[Any], None]:
    """A function that shows the events of a training run between its start and its end."""
    from mdt_cli.services.events import (
        CheckpointSaved,
        Classified,
        PreviewSaved,
        ScoresDone,
        StepDone,
        Validated,
    )

    loss = ""

    def tell(event: Any) -> None:
        nonlocal loss
        match event:
            case StepDone():
                loss = f"loss {event.loss:.4f}" if event.loss is not None else loss
                bar.update(event.step, event.steps, loss)
            case Validated():
                shown = ", ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
                talk(f"step {event.step}: held-out loss {shown}")
            case Classified():
                shown = ", ".join(f"{name} {value:.2f} %" for name, value in event.percent.items())
                talk(f"step {event.step}: held-out accuracy {shown}")
            case CheckpointSaved():
                talk(f"step {event.step}: saved {event.path}")
            case ScoresDone():
                shown = ", ".join(f"{name} {value:.4g}" for name, value in event.scores.items())
                talk(f"step {event.step}: {shown}")
            case PreviewSaved():
                talk(f"step {event.step}: saved {event.path}")

    return tell


def follow(events: Iterator[Any], as_json: bool) -> None:
    """Show the events of a training run and end with its summary."""
    from mdt_cli.services.events import TrainingDone

    with Bar("training", "steps") as bar:
        tell = training_display(bar)
        for event in shown_events(events, bar):
            tell(event)
            if isinstance(event, TrainingDone):
                done = event
    if as_json:
        emit_json(
            {
                "run": str(done.run),
                "step": done.step,
                "seconds": round(done.seconds, 3),
                "images": done.images,
                "loss": done.loss,
                "held_out": dict(done.held_out),
                **({"accuracy": dict(done.accuracy)} if done.accuracy else {}),
            }
        )
        return
    if done.images:
        rate = done.images / done.seconds
        talk(f"{done.images:,} images in {human_seconds(done.seconds)}, {rate:.0f} images/s")
    for k in (1, 5):
        if f"top{k}" in done.accuracy:
            talk(_gain(k, done.accuracy))
    emit(str(done.run))


def _gain(k: int, accuracy: Mapping[str, float | None]) -> str:
    """One line about top-k accuracy, the points gained and the hours that each of them took."""
    top, gained, cost = (accuracy[key] for key in (f"top{k}", f"top{k}_gained", f"MAT@{k}"))
    price = "" if cost is None else f"; MAT@{k} {cost:.4g} hours per point"
    return f"held-out top-{k} {top:.2f} %, {gained:+.2f} points since the first step{price}"


def show_plan(plan: Any, config_toml: str, as_json: bool) -> None:
    """The resolved configuration and what follows from it."""
    if as_json:
        emit_json({"config": plan.config, "derived": plan.derived()})
        return
    emit(config_toml)
    rows = [
        ("tokens", str(plan.tokens)),
        ("tokens kept in masked passes", plan.kept),
        ("parameters", f"{plan.parameters:,}"),
        ("... of them only for masked training", f"{plan.training_only:,}"),
        ("FLOPs per training image", f"{plan.train_flops / 1e9:.2f} GFLOP (2 x multiply-add)"),
        ("FLOPs per network call", f"{plan.call_flops / 1e9:.2f} GFLOP"),
        ("whole run", f"{plan.run_flops / 1e15:.3g} PFLOP, {plan.images:,} images"),
        ("cache on disk", f"{human_bytes(plan.cache_bytes)}, {plan.cache_images:,} images"),
        ("one checkpoint on disk", human_bytes(plan.checkpoint_bytes)),
        ("all kept checkpoints", human_bytes(plan.kept_bytes)),
    ]
    table("What it takes", ("", ""), rows)
