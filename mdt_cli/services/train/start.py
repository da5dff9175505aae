"""The two stages of training: from fresh weights, or from those of an earlier stage.

Both check and build everything first; a start that is refused leaves no trace.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.begun_rules import SplitRule, begun_config, check_schedule, resolved
from mdt_cli.artifacts.begun_run import as_begun, has_begun, settings_of, steering_changes
from mdt_cli.artifacts.checkpoint import checkpoints
from mdt_cli.artifacts.latent_cache.read import LatentCache, open_cache
from mdt_cli.artifacts.weights import read_header
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.config.run import RunConfig
from mdt_cli.config.training import LogConfig
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.locks import writing_folder
from mdt_cli.services.build.network import build_network, token_counts
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.model import find_weights
from mdt_cli.services.runtime import (
    check_precision,
    deferred_signals,
    make_deterministic,
    pick_device,
)
from mdt_cli.services.train.announce import what_starts
from mdt_cli.services.train.batches import train_data
from mdt_cli.services.train.initial_weights import InitialWeights, load_initial
from mdt_cli.services.train.launcher import check_launcher
from mdt_cli.services.train.loop import run_loop
from mdt_cli.services.train.met import met
from mdt_cli.services.train.placement import Placement, check_shares
from mdt_cli.services.train.split import cut_note
from mdt_cli.services.train.state import TrainState
from mdt_cli.services.train.step_log import StepLog
from mdt_cli.services.train.trackers import Trackers
from mdt_cli.services.train.watch import Watch

PRETRAIN, FINETUNE = "pretrain", "finetune"
# Keys that say how one stage starts or where it ran, and nothing of the next.
OF_ONE_STAGE = ("start", "new_classes", "deterministic", "schedule_steps")
MANY_LENGTHS = 12
STRATA: SplitRule = "stratified"


@dataclass(frozen=True)
class TrainRequest:
    """`fresh`: how often --fresh was given. `initial` None: fresh weights."""

    cache: Path
    run: Path
    loaded: Loaded
    stage: str
    fresh: int = 0
    device: str | None = None
    initial: InitialWeights | None = None


def pretrain(
    cache: Path, run: Path, loaded: Loaded, fresh: int = 0, device: str | None = None
) -> Iterator[Event]:
    """Train on `cache` into `run`, or resume `run`; ends with TrainingDone."""
    yield from train(TrainRequest(cache, run, loaded, PRETRAIN, fresh, device))


def finetune(
    cache: Path,
    run: Path,
    source: Path,
    ema: str | None,
    loaded: Loaded,
    fresh: int = 0,
    device: str | None = None,
) -> Iterator[Event]:
    """Start `run` from the weights `ema` of `source`, or resume `run`; ends with TrainingDone."""
    before = None if fresh else run_folder.started_from(run)
    if before is not None and source.exists() and source.resolve() != before:
        yield Warned(
            f"resuming {run}, which was initialised from {before}; ignoring --from {source}"
        )
    initial = InitialWeights(source, ema)
    yield from train(TrainRequest(cache, run, loaded, FINETUNE, fresh, device, initial))


def starting_config(
    source: Path,
    ema: str | None,
    presets: Sequence[str],
    assignments: Sequence[str],
    run: Path | None = None,
) -> Loaded:
    """The configuration in the weights, then presets, then assignments.

    A `run` that has begun is its own base: whatever became of the weights it started from. One of
    another stage is an MdtError.
    """
    if run is not None and checkpoints(run) and (run / run_folder.CONFIG).is_file():
        run_folder.check_stage(run, FINETUNE)
        return settings_of(run, presets, assignments)
    header = read_header(find_weights(source, ema))
    training = {k: v for k, v in header.config["training"].items() if k not in OF_ONE_STAGE}
    # What is held out depends on the cache; a tail, on the steps of the stage.
    data, schedule = dict(header.config["data"]), dict(header.config.get("lr_schedule", {}))
    data.pop("split", None)
    schedule.pop("tail", None)
    base = {**header.config, "training": training, "data": data, "lr_schedule": schedule}
    return load_config(presets, assignments, base=base, base_source=f"{source}")


def train(request: TrainRequest) -> Iterator[Event]:
    """Start or resume a run; ends with TrainingDone. MdtError before the first step if possible."""
    device = pick_device(request.device)
    check_launcher(request.loaded.config.training, device.type, os.environ)
    check_precision(request.loaded.config.training.precision, request.device)
    cache = open_cache(request.cache, verify=True)
    before = begun_config(request.run, request.fresh)
    loaded = resolved(
        request.loaded,
        before,
        device.type,
        _split_rule(request, cache) if before is None else STRATA,
    )
    loaded, kept = as_begun(request.run, loaded, request.fresh)
    request, config = replace(request, loaded=loaded), loaded.config
    make_deterministic(config.training.deterministic is True)
    placement = yield from met(config.training.precision, request.device)
    begun = request.fresh < 2 and has_begun(request.run)
    check_shares(config.training, placement.processes, begun)
    with ExitStack() as stack:
        yield from _as_only_writer(stack, request.run, placement)
        if kept and placement.is_first:
            yield Note(
                f"{request.run} was begun with another version, whose settings it keeps: "
                + ", ".join(kept)
            )
        yield from _train(request, cache, placement)


def _as_only_writer(stack: ExitStack, run: Path, placement: Placement) -> Iterator[Event]:
    """The first process locks the run, until `stack` closes; where it cannot, all of them end."""
    refused: MdtError | None = None
    if placement.is_first:
        try:
            problem = stack.enter_context(writing_folder(run, sweep=False))
        except MdtError as error:
            refused, problem = error, None
        if problem is not None:
            yield Warned(problem)
    if placement.any(refused is not None):
        raise refused or MdtError(f"the first process could not lock {run}", "read its message")


def _train(request: TrainRequest, cache: LatentCache, placement: Placement) -> Iterator[Event]:
    loaded, config = request.loaded, request.loaded.config
    begun = request.fresh < 2 and has_begun(request.run)
    if cache.facts.count < 2:
        raise MdtError(f"the cache holds {cache.facts.count} image; training needs at least 2")
    changed = run_folder.check(request.run, loaded, request.fresh, request.stage)
    if begun:
        check_schedule(request.run, loaded)
    steered = steering_changes(request.run, loaded) if begun else []
    network = _fresh_network(config, cache)
    data = train_data(config, cache, network.grid)
    state = TrainState(request.run, request.stage, data, placement, network)
    resumed = False
    if not request.fresh:
        resumed = yield from state.resume()
    if not resumed and request.initial is not None:
        averages = yield from load_initial(request.initial, network, config, cache)
        state.restart_averages()
        for name, tensors in averages.items():
            state.averages[name].load(tensors)
    score = None
    if config.evaluation.every:
        # Extractors and metrics are loaded only by a run that computes them.
        from mdt_cli.services.train.online_metrics import open_scorer

        score = open_scorer(data, placement).score
    # Only now is everything checked that can be: a refused start leaves no trace.
    placement.wait()
    if placement.is_first:
        source = None if request.initial is None else request.initial.source
        run_folder.sweep(request.run)
        run_folder.write(
            request.run, loaded, request.stage, request.fresh, state.step, changed, source
        )
        for change in changed:
            yield Note(f"changed after step {state.step}: {change}")
        for change in steered:
            yield Note(f"other than in this run before: {change}")
        yield from state.tidy()
    placement.wait()
    if not (begun or loaded.has_recipe):
        yield from what_starts(config, cache, network)
    if note := cut_note(config.data.held_out, data.split, config.data.split != "random"):
        yield Note(note)
    yield from _notes(config, cache, network, state.step)
    # Trackers get the numbers of the first process; the others have none to send.
    log = config.log if placement.is_first else LogConfig()
    trackers = Trackers(log, request.run, state.run_id, config.model_dump(mode="json"))
    watch, step_log = Watch(placement, score, trackers), StepLog(placement, trackers)
    with deferred_signals() as stop:
        yield from run_loop(state, data, placement, watch, step_log, stop)
    trackers.close()


def _split_rule(request: TrainRequest, cache: LatentCache) -> SplitRule:
    """A later stage on the same images holds out those that the earlier one held out."""
    if request.initial is not None and request.initial.source.exists():
        header = read_header(find_weights(request.initial.source, request.initial.ema))
        if header.data.get("digest") == cache.facts.digest:
            return "random" if header.config["data"].get("split", "random") == "random" else STRATA
    return STRATA


def _fresh_network(config: RunConfig, cache: LatentCache) -> Transformer:
    with torch.random.fork_rng(devices=[]):
        # Parameter initialisers of torch read the global stream; its state is restored afterwards.
        torch.manual_seed(stream(config.training.seed, "init").initial_seed())
        return build_network(config, cache.facts.latent_shape, cache.facts.num_classes)


def _notes(
    config: RunConfig, cache: LatentCache, network: Transformer, step: int
) -> Iterator[Event]:
    """What this configuration does not do with this cache, or does slowly."""
    if config.data.conditional and not cache.facts.num_classes:
        yield Note("the cache has no classes: training is unconditional")
    if config.data.flip and not cache.facts.flip:
        yield Note("the cache has no flipped copies: data.flip has no effect")
    lengths = token_counts(config, network.grid) if config.training.compile else set()
    # Each number of tokens is compiled by itself, which takes tens of seconds.
    if len(lengths) > MANY_LENGTHS:
        can_round = config.masking.selector.kind == "random" and not step
        rounded = "; --set masking.selector.bucket=16 rounds them to a few" if can_round else ""
        yield Warned(
            f"the mask ratio changes, so blocks see {len(lengths)} different numbers of tokens and "
            f"are compiled for each{rounded}"
        )
