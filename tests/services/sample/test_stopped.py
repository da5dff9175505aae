"""Signals and progress within one batch, between the steps of its sampler."""

from dataclasses import replace

import pytest

from mdt_cli.services.events import Progress
from mdt_cli.services.sample.sample import sample
from tests.services.sampled import contents, run
from tests.services.signals import stopped_at
from tests.services.tiny_weights import write_weights

EPSILON = {"kind": "epsilon"}


@pytest.mark.parametrize(
    ("solver", "objective"),
    [("euler", None), ("heun", None), ("dpm++", None), ("ddpm", EPSILON), ("ddim", EPSILON)],
)
def test_a_stop_within_a_batch_is_heard_at_the_next_step(solver, objective, request_, tmp_path):
    file = write_weights(tmp_path / "w.safetensors", objective)
    request = replace(request_, weights=file, solver=solver, steps=12)
    whole = replace(request, out=tmp_path / "whole")
    run(whole)
    # In the second of three batches.
    stopped, after = stopped_at(
        sample(request),
        lambda event: isinstance(event, Progress) and event.done and "step 3 of" in event.note,
    )
    assert after == []
    assert "Finished images are kept" in stopped.saved
    assert set(contents(request.out)) == {f"{seed:06d}.png" for seed in range(4)}
    done, _ = run(request)
    assert done.drawn == 6
    ours, theirs = contents(request.out), contents(whole.out)
    assert {name for name in theirs if ours[name] != theirs[name]} == set()


def test_every_step_is_progress(request_):
    _, events = run(replace(request_, steps=5))
    shown = [event for event in events if isinstance(event, Progress)]
    first = [event for event in shown if not event.done]
    assert [event.ahead for event in first] == pytest.approx([0, 0.8, 1.6, 2.4, 3.2, 4.0])
    assert [event.note for event in first[1:]] == [f"step {k} of 5" for k in range(1, 6)]
    reached = [event.done + event.ahead for event in shown]
    assert reached == sorted(reached)
    assert shown[-1] == Progress(10, 10)
