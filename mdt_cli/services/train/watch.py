"""Which looks a run takes between its steps, and when: validation, previews, online metrics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import torch

from mdt_cli.artifacts import run_folder
from mdt_cli.errors import MdtError, Stopped
from mdt_cli.json_reader import JsonLines
from mdt_cli.services.events import Event, Note, ScoresDone, Validated, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.look import Look
from mdt_cli.services.train.placement import Placement
from mdt_cli.services.train.previews import preview
from mdt_cli.services.train.trackers import Trackers
from mdt_cli.services.train.validation import validate

# In `metrics.jsonl`, of a step whose looks a signal ended.
STOPPED = "stopped"
# Online metrics: the only look that all processes take together.
Score = Callable[[Look, Stop], Iterator[Event]]


class Watch:
    """Takes the looks that are due; the first process validates and previews.

    `held_out` are the last held-out losses. `score` None: there are no online metrics.
    """

    def __init__(self, placement: Placement, score: Score | None, trackers: Trackers) -> None:
        self._placement, self._score, self._trackers = placement, score, trackers
        self._can_preview = True
        self._timed = False
        self.held_out: Mapping[str, float] = {}

    def before_first_step(self, look: Look, stop: Stop) -> Iterator[Event]:
        """The accuracy of a classifier before it learns: its gain is counted from there.

        After it all processes know of a stop.
        """
        data = look.data
        watched = self._placement.is_first and data.config.validation.every
        if watched and data.loss.classifies and len(data.split.held_out):
            # A run that is stopped here has no step, and begins anew.
            with suppress(Stopped):
                yield from self._followed(validate(look, stop), look)
        elif watched and data.loss.classifies:
            yield Warned("no image is held out, so the accuracy of this classifier is not measured")
        if data.loss.classifies:
            stop.everywhere(self._placement.processes)

    def after_step(self, look: Look, stop: Stop) -> Iterator[Event]:
        """What is due at this step; MdtError where it does not fit into memory.

        A signal ends it between two batches or two steps of a sampler. Where anything was due, all
        processes know of the stop afterwards.
        """
        try:
            yield from self._followed(self._due(look, stop), look)
        except torch.OutOfMemoryError as error:
            raise MdtError(
                f"step {look.step}: out of memory in validation or online metrics",
                "halve validation.batch_size and evaluation.batch_size with --set and rerun the "
                "command: the run resumes from its newest checkpoint",
            ) from error

    def missed(self, look: Look) -> bool:
        """Whether a kill came between the checkpoint of this step and its numbers.

        All processes call it together; the first one reads, and drops what is incomplete.
        """
        missing = False
        if self._placement.is_first:
            file, config = look.folder / run_folder.METRICS, look.data.config
            records = list(JsonLines(file)) if file.is_file() else []
            known = {k for record in records if record.get("step") == look.step for k in record}
            has = {key.partition("/")[0] for key in known}
            held_out = config.validation.every if len(look.data.split.held_out) else 0
            scores = config.evaluation.every if self._score is not None else 0
            due = {"held_out": held_out, "evaluation": scores}
            missing = STOPPED in has
            missing |= any(_is_due(look, every) and key not in has for key, every in due.items())
            if missing:
                run_folder.rewind(file, look.step - 1)
        return self._placement.any(missing)

    def _due(self, look: Look, stop: Stop) -> Iterator[Event]:
        config = look.data.config
        looks = (config.validation.every, config.preview.every, config.evaluation.every)
        if not any(_is_due(look, every) for every in looks):
            return
        try:
            if self._placement.is_first:
                yield from self._due_alone(look, stop)
        except Stopped:
            yield from self._cut(look)
        stopped = stop.everywhere(self._placement.processes)
        if self._score is None or not _is_due(look, config.evaluation.every):
            return
        if stopped:
            yield Warned(f"step {look.step}: stopped before scoring; the resumed run scores it")
            return
        try:
            yield from self._score(look, stop)
        except Stopped:
            yield from self._cut(look)
        stop.everywhere(self._placement.processes)

    def _cut(self, look: Look) -> Iterator[Event]:
        """On record, so that the resumed run takes all looks of this step again."""
        run_folder.append(look.folder / run_folder.METRICS, {"step": look.step, STOPPED: 1})
        yield Warned(
            f"step {look.step}: stopped while measuring; the resumed run measures this step again"
        )

    def _due_alone(self, look: Look, stop: Stop) -> Iterator[Event]:
        """What the first process does while the others wait."""
        data, config = look.data, look.data.config
        if len(data.split.held_out) and _is_due(look, config.validation.every):
            yield from validate(look, stop)
        shows = self._can_preview and not data.loss.classifies
        if shows and _is_due(look, config.preview.every):
            self._can_preview = yield from preview(look, stop)

    def _followed(self, events: Iterator[Event], look: Look) -> Iterator[Event]:
        """The events, with their numbers sent to the trackers."""
        for event in events:
            yield event
            if isinstance(event, Validated):
                self.held_out = event.losses
                self._trackers.log(
                    event.step, {f"held-out/{name}": loss for name, loss in event.losses.items()}
                )
            if isinstance(event, ScoresDone):
                yield from self._time(event, look)
                self._trackers.log(
                    event.step, {f"evaluation/{name}": v for name, v in event.scores.items()}
                )
        yield from map(Warned, self._trackers.new_warnings())

    def _time(self, event: ScoresDone, look: Look) -> Iterator[Event]:
        """After the first scores: how long the others will take."""
        config = look.data.config
        left = (config.training.steps - event.step) // config.evaluation.every
        if self._timed or not left:
            return
        self._timed = True
        minutes = left * event.seconds / 60
        yield Note(
            f"online metrics took {event.seconds:.0f} s; {left} more times are about "
            f"{minutes:.0f} min of this run (evaluation.every, evaluation.count)"
        )


def _is_due(look: Look, every: int) -> bool:
    """Every `every` steps, 0: never, and after the last step."""
    return every > 0 and (look.step % every == 0 or look.step >= look.data.config.training.steps)
