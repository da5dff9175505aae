"""Train on from the weights of an earlier stage."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.config.load import Loaded, load
from mdt_cli.core.checkpoint import ONLINE, checkpoints, fit_report, read_header, read_tensors
from mdt_cli.core.data.latents import LatentCache
from mdt_cli.errors import MdtError
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.run_folder import CONFIG, check_stage, read_config, started_from
from mdt_cli.services.trained import TRAINING_ONLY, find_weights, put_weights
from mdt_cli.services.training_loop import TrainRequest, train

STAGE = "finetune"
# Of an autoencoder, in the facts of a codec.
DIGEST = "weights_sha256"
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
        before, now = header.config["objective"]["kind"], loaded.config.objective.kind
        fresh_classes = training.new_classes or (now == "classification" != before)
        check_same_data(header.data, opened, file, classes=not fresh_classes)
        if (doubt := codec_doubt(header.data, opened)) is not None:
            yield Warned(doubt)
        yield Note(f"starting from {file} (step {header.step}, weights {header.ema})")
        yield from put_stage_weights(network, read_tensors(file), file, training.new_classes)

    before = None if fresh else started_from(run)
    if before is not None and source.exists() and source.resolve() != before:
        yield Warned(f"{run} started from {before} and goes on; --from {source} changes nothing")
    yield from train(TrainRequest(cache, run, loaded, STAGE, fresh, device, initial, source))


def check_same_data(
    before: Mapping[str, Any], cache: LatentCache, source: Path, classes: bool = True
) -> None:
    """MdtError unless the cache has the codec, shape and (`classes`) classes of the weights."""
    now = cache.facts.header()
    words = {
        "codec": "another codec",
        "latent_shape": "another latent shape",
        **({"class_names": "other classes"} if classes else {}),
    }
    for key, what in words.items():
        old, new = before[key], now[key]
        if key == "class_names" and not before.get("class_names_known", True):
            # Imported weights may know their classes by number alone.
            old, new = len(old), len(new)
        if _comparable(old, new) != _comparable(new, old):
            raise MdtError(
                f"{source} was trained on {what} than the cache holds: {_short(old)} there, "
                f"{_short(new)} in the cache",
                "encode the images as for the first stage, or pretrain on this cache"
                if key != "class_names"
                else "--set training.new_classes=true starts the label table afresh",
            )


def _comparable(value: Any, other: Any) -> Any:
    """Without what may differ in the same codec: where it lies, a digest one side knows."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        unknown = [value.get(DIGEST), other.get(DIGEST)].count(None)
        left_out = {0: ("id",), 1: ("id", DIGEST), 2: ()}[unknown]
        return {k: v for k, v in value.items() if k not in left_out}
    return list(value) if isinstance(value, tuple) else value


def codec_doubt(before: Mapping[str, Any], cache: LatentCache) -> str | None:
    """A warning where two codecs agree but for their names and no digest tells them apart."""
    old, new = before["codec"], cache.facts.header()["codec"]
    if old.get("id") == new.get("id") or None not in (old.get(DIGEST), new.get(DIGEST)):
        return None
    return (
        f"the weights are for latents of {_short(old)}, the cache was made with {_short(new)}: "
        "alike in kind and scale, but whether they are the same autoencoder cannot be told; "
        "mdt import --codec FOLDER records it"
    )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("id") or value.get("name"))
    if isinstance(value, (list, tuple)) and len(value) > 4:
        return f"{len(value)} ({', '.join(map(str, value[:4]))}, ...)"
    return str(list(value) if isinstance(value, tuple) else value)


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
