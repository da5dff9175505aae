"""The two ways into the training loop: fresh weights, or those of an earlier stage."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mdt_cli.artifacts.checkpoint import checkpoints
from mdt_cli.artifacts.data_facts import check_same_data, codec_doubt
from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.artifacts.run_folder import CONFIG, check_stage, read_config, started_from
from mdt_cli.artifacts.weights import ONLINE, fit_report, read_header, read_tensors
from mdt_cli.config.load import Loaded, load
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.model import TRAINING_ONLY, find_weights, put_weights, weights_config
from mdt_cli.services.train.loop import TrainRequest, train

STAGE = "finetune"
# Where the label table is, by the way the network is conditioned.
LABELS = ("label.", "extras.label.", "classifier.")
# What a classifier has no use for, and what it has instead.
DECODER = ("adapter.", "narrow.", "head.")
CLASSIFIER = "classifier."


# Keys that say how one stage starts or where it ran, and nothing of the next.
OF_ONE_STAGE = ("start", "new_classes", "deterministic")


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
    if run is not None and checkpoints(run) and (run / CONFIG).is_file():
        check_stage(run, STAGE)
        begun = read_config(run / CONFIG).model_dump(mode="json")
        return load(presets, assignments, base=begun, base_source=f"{run} as it began")
    header = read_header(find_weights(source, ema))
    training = {k: v for k, v in header.config["training"].items() if k not in OF_ONE_STAGE}
    base = {**header.config, "training": training}
    return load(presets, assignments, base=base, base_source=f"{source}")


def finetune(
    cache: Path,
    run: Path,
    source: Path,
    ema: str | None,
    loaded: Loaded,
    fresh: int = 0,
    device: str | None = None,
) -> Iterator[Event]:
    """Start `run` from the weights `ema` of `source`; a second call resumes `run`."""
    training = loaded.config.training

    def initial(network: torch.nn.Module, opened: LatentCache) -> Iterator[Event]:
        file = find_weights(source, ema or (ONLINE if training.start == ONLINE else None))
        header = read_header(file)
        # Behind another objective a classifier starts afresh: whatever classes were known before.
        learned = build_loss(weights_config(file, header).objective).classifies
        learns = build_loss(loaded.config.objective).classifies
        fresh_classes = training.new_classes or (learns and not learned)
        check_same_data(header.data, opened, file, classes=not fresh_classes)
        if (doubt := codec_doubt(header.data, opened)) is not None:
            yield Warned(doubt)
        yield Note(f"starting from {file} (step {header.step}, weights {header.ema})")
        yield from put_stage_weights(network, read_tensors(file), file, training.new_classes)

    before = None if fresh else started_from(run)
    if before is not None and source.exists() and source.resolve() != before:
        yield Warned(f"{run} started from {before} and goes on; --from {source} changes nothing")
    yield from train(TrainRequest(cache, run, loaded, STAGE, fresh, device, initial, source))


def put_stage_weights(
    network: torch.nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path,
    new_classes: bool = False,
) -> Iterator[Event]:
    """Load weights; parts that serve masked passes may come or go with the stage, and are named.

    With `new_classes` so does whatever knows the classes, and a classifier needs no decoder.
    """
    ours = dict(network.named_parameters())
    may_go = may_come = TRAINING_ONLY + (LABELS if new_classes else ())
    if any(k.startswith(CLASSIFIER) for k in ours):
        # Its positions may begin to learn; they start as the fixed ones are.
        may_go, may_come = may_go + DECODER, (*may_come, CLASSIFIER, "positions_ND")
    labels = [k for k in tensors if new_classes and k.startswith(LABELS)]
    dropped = [k for k in tensors if k not in ours and k.startswith(may_go)] + labels
    added = [k for k in ours if (k not in tensors or k in labels) and k.startswith(may_come)]
    kept = {k: v for k, v in tensors.items() if k not in dropped}
    whole = kept | {k: ours[k].detach() for k in added}
    if fit_report(ours, whole):
        put_weights(network, whole, source)
    if dropped:
        count = sum(tensors[k].numel() for k in dropped)
        yield Note(f"dropped {count:,} parameters that this stage does not use: {_names(dropped)}")
    if added:
        count = sum(ours[k].numel() for k in added)
        yield Note(f"added {count:,} fresh parameters that this stage needs: {_names(added)}")
    put_weights(network, whole, source)


def _names(keys: Sequence[str]) -> str:
    parts = dict.fromkeys(".".join(key.split(".")[:2]) for key in keys)
    return ", ".join(parts)


def pretrain(
    cache: Path, run: Path, loaded: Loaded, fresh: int = 0, device: str | None = None
) -> Iterator[Event]:
    """Train on `cache` into `run`, or go on with what `run` holds; ends with TrainingDone."""
    yield from train(TrainRequest(cache, run, loaded, "pretrain", fresh, device))
