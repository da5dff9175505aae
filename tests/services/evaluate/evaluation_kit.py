"""What the tests of evaluation share: one run of it, and what it told."""

from dataclasses import replace
from typing import Any

from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.events import EvaluationDone, Event, Note, Warned


def run(request: EvaluateRequest) -> tuple[dict[str, Any], list[Event]]:
    events = list(evaluate(replace(request, device="cpu")))
    assert isinstance(events[-1], EvaluationDone)
    return events[-1].report, events


def told(events: list[Event], kind: type[Note] | type[Warned]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, kind))
