"""The weights of an earlier stage, put into the network of the next one."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mdt_cli.artifacts.checkpoint import ema_file
from mdt_cli.artifacts.data_facts import check_same_data, codec_doubt
from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.artifacts.weights import ONLINE, fit_report, read_header, read_tensors
from mdt_cli.config.run import RunConfig
from mdt_cli.errors import MdtError
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.events import Event, Note, Warned
from mdt_cli.services.model import (
    EARLY_HEAD,
    TRAINING_ONLY,
    find_weights,
    put_weights,
    weights_config,
)

BOTH = "both"
# Where the label table is, by the way the network is conditioned.
LABELS = ("label.", "extras.label.", "classifier.")
# What a classifier has no use for, and what it has instead.
DECODER = ("adapter.", "narrow.", "head.")
CLASSIFIER = "classifier."


@dataclass(frozen=True)
class InitialWeights:
    """Where a finetune run starts: the weights `ema` of `source`; None as training.start says."""

    source: Path
    ema: str | None


def load_initial(
    initial: InitialWeights, network: nn.Module, config: RunConfig, cache: LatentCache
) -> Generator[Event, None, dict[str, dict[str, Tensor]]]:
    """Put the weights into the network; MdtError where they, or their data, do not fit.

    The generator returns the EMA weights to start with, by name; none: as the network.
    """
    averages: dict[str, dict[str, Tensor]] = {}
    ema = initial.ema or (ONLINE if config.training.start == ONLINE else None)
    if config.training.start == BOTH and initial.ema is None:
        ema, files = yield from _both(initial.source, config)
        for name, file in files.items():
            # What this stage drops and adds is said once, for the online weights.
            for _ in _load_file(file, network, config, cache):
                pass
            averages[name] = {k: p.detach().clone() for k, p in network.named_parameters()}
        if files:
            yield Note(f"EMA weights start from {', '.join(str(f) for f in files.values())}")
    yield from _load_file(find_weights(initial.source, ema), network, config, cache)
    return averages


def _both(
    source: Path, config: RunConfig
) -> Generator[Event, None, tuple[str | None, dict[str, Path]]]:
    """The name of the online weights, and the files of the EMA weights by the name of this run."""
    newest = find_weights(source, None)
    if newest.name != ema_file(read_header(newest).ema):
        held = read_header(newest).ema
        yield Note(f"{newest} holds the weights {held} alone: online and EMA weights start there")
        return None, {}
    have = {file.stem.removeprefix("ema-") for file in newest.parent.glob(ema_file("*"))}
    if missing := [name for name in config.ema.names if name not in have]:
        raise MdtError(
            f"training.start both needs the EMA weights {', '.join(missing)}, and {newest.parent} "
            f"has {', '.join(sorted(have))}",
            f"--set ema.decays=[{', '.join(sorted(have))}], or --set training.start=online",
        )
    return ONLINE, {name: newest.with_name(ema_file(name)) for name in config.ema.names}


def _load_file(
    file: Path, network: nn.Module, config: RunConfig, cache: LatentCache
) -> Iterator[Event]:
    training, header = config.training, read_header(file)
    # Behind another objective a classifier starts fresh: whatever classes were known before.
    learned = build_loss(weights_config(file, header).objective).classifies
    learns = build_loss(config.objective).classifies
    fresh_classes = training.new_classes or (learns and not learned)
    check_same_data(header.data, cache, file, classes=not fresh_classes)
    if (doubt := codec_doubt(header.data, cache)) is not None:
        yield Warned(doubt)
    yield Note(f"starting from {file} (step {header.step}, weights {header.ema})")
    yield from put_stage_weights(network, read_tensors(file), file, training.new_classes)


def put_stage_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], source: Path, new_classes: bool = False
) -> Iterator[Event]:
    """Load weights; parts that serve masked passes may differ between stages, and are reported.

    A classifier's network may also lack a decoder, and bring its classifier and positions.
    `new_classes`: the label weights of the file are dropped, those of `network` kept. MdtError
    where anything else does not fit.
    """
    ours = dict(network.named_parameters())
    may_go = may_come = (*TRAINING_ONLY, EARLY_HEAD, *(LABELS if new_classes else ()))
    if any(k.startswith(CLASSIFIER) for k in ours):
        # Its positions may begin to learn; they start as the fixed ones are.
        learned = ("positions_ND", "extras.positions_ED")
        may_go, may_come = may_go + DECODER, (*may_come, CLASSIFIER, *learned)
    labels = [k for k in tensors if new_classes and k.startswith(LABELS)]
    dropped = [k for k in tensors if k not in ours and k.startswith(may_go)] + labels
    added = [k for k in ours if (k not in tensors or k in labels) and k.startswith(may_come)]
    kept = {k: v for k, v in tensors.items() if k not in dropped}
    complete = kept | {k: ours[k].detach() for k in added}
    if fit_report(ours, complete):
        put_weights(network, complete, source)
    if dropped:
        count = sum(tensors[k].numel() for k in dropped)
        yield Note(f"dropped {count:,} parameters that this stage does not use: {_names(dropped)}")
    if added:
        count = sum(ours[k].numel() for k in added)
        yield Note(f"added {count:,} new parameters that this stage needs: {_names(added)}")
    put_weights(network, complete, source)


def _names(keys: Sequence[str]) -> str:
    parts = dict.fromkeys(".".join(key.split(".")[:2]) for key in keys)
    return ", ".join(parts)
