"""Images that a run shows while it trains, from its first EMA weights."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mdt_cli.config.run import RunConfig
from mdt_cli.config.sampling import NoGuidanceConfig, SamplingConfig
from mdt_cli.core.codecs.codec import Codec, codec_from_facts, decoded
from mdt_cli.core.sampling.to_uint8 import Rule, to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.images.contact_sheet import save_grid
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.build.sampler import generate_steps
from mdt_cli.services.events import Event, PreviewSaved, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.strips import (
    cannot_restore,
    hide,
    make_strips,
    save_strips,
    targets_are_normalised,
)
from mdt_cli.services.train.look import CUT, Look

NO_ROOM = "not enough memory while training"


def preview(look: Look, stop: Stop) -> Generator[Event, None, bool]:
    """Write `samples/step-N.png`; returns whether further previews are possible.

    Stopped between two steps of the sampler, with no file.
    """
    data, restores = look.data, look.data.loss.restores
    why = cannot_restore(data.loss, data.config.masking) if restores else None
    path = look.folder / "samples" / f"step-{look.step:07d}.png"
    try:
        codec = codec_from_facts(dict(data.cache.facts.codec), look.device, None)
    except MdtError as error:
        why = error.message
    except torch.OutOfMemoryError:
        why = NO_ROOM
    if why is None:
        try:
            with look.evaluating(look.first_average):
                if restores:
                    _restored(look, codec, path)
                else:
                    yield from _generated(look, codec, path, stop)
        except torch.OutOfMemoryError:
            why = NO_ROOM
    yield PreviewSaved(look.step, path) if why is None else Warned(f"previews disabled: {why}")
    return why is None


def _generated(look: Look, codec: Codec, path: Path, stop: Stop) -> Iterator[Event]:
    """Samples of the same few seeds, a row per class."""
    config, facts = look.data.config.preview, look.data.cache.facts
    labels, names = [0] * (config.per_class * 4), None
    if look.data.conditional:
        classes = range(min(facts.num_classes, config.max_classes))
        labels = [k for k in classes for _ in range(config.per_class)]
        names = [facts.class_names[k] for k in classes]
    sampling = sampling_while_training(look.data.config, config.steps, look.data.conditional)
    states = generate_steps(
        look.network,
        diffusion_of(look.data.loss),
        sampling,
        facts.latent_shape,
        look.num_classes,
        list(range(len(labels))),
        labels if look.data.conditional else None,
        look.device,
    )
    latents = torch.empty(0)
    for step, state in enumerate(states, start=1):
        latents = state
        stop.raise_if_asked(CUT)
        yield look.progress(f"preview, step {step} of {sampling.steps}")
    with torch.no_grad():
        images = decoded(codec, latents.float())
    labelled_grid(path, images, names, config.per_class, sampling.uint8)


def sampling_while_training(config: RunConfig, steps: int, conditional: bool) -> SamplingConfig:
    """The run's `[sampling]` with fewer steps, without guidance where there are no classes."""
    sampling = config.sampling.model_copy(update={"steps": steps})
    if not conditional:
        sampling = sampling.model_copy(update={"guidance": NoGuidanceConfig()})
    return sampling


def _restored(look: Look, codec: Codec, path: Path) -> None:
    """Strips of some held-out images, as much hidden as the run ever hides."""
    data, config = look.data, look.data.config
    some = data.split.held_out if len(data.split.held_out) else data.split.train
    count = min(config.preview.per_class * 4, len(some))
    # Evenly spread, as the rows of a class lie together.
    rows = some[torch.arange(count) * len(some) // count]
    ratio = data.mask_ratio.extremes(config.schedule_steps)[1]
    subset = hide(data.source.selector, look.network.grid, ratio, rows.tolist())
    strips = make_strips(
        look.network,
        codec,
        data.cache.read(rows).mean.to(look.device),
        None,
        subset.to(look.device),
        targets_are_normalised(config.masking),
        look.num_classes,
        data.units,
    )
    save_strips(path, strips)


def labelled_grid(
    path: Path, images_B3HW: Tensor, names: Sequence[str] | None, per_row: int, rule: Rule
) -> None:
    """Write images in [-1, 1] as a PNG, `per_row` in each row, row k named `names[k]`."""
    tiles = list(to_uint8(images_B3HW, rule).numpy())
    rows = [tiles[start : start + per_row] for start in range(0, len(tiles), per_row)]
    save_grid(path, rows, names)
