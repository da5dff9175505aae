"""Masked reconstruction: images with hidden patches, restored by the network."""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mdt_cli.artifacts.data_facts import check_same_data, codec_facts
from mdt_cli.artifacts.latent_cache.format import MANIFEST, PLAN
from mdt_cli.artifacts.latent_cache.read import LatentCache, open_cache
from mdt_cli.artifacts.sample_folder.png import GRID, Job, Pixels, PngFolder
from mdt_cli.core.codecs.codec import Codec, codec_from_facts
from mdt_cli.core.precision import float32
from mdt_cli.errors import MdtError
from mdt_cli.images.archives import FolderReader
from mdt_cli.images.decode import read_image
from mdt_cli.images.files import is_image
from mdt_cli.images.image_set import Found, ImageSet, make_set
from mdt_cli.images.open_image import UnreadableError
from mdt_cli.images.reading import Reading
from mdt_cli.services.build.latents import latent_units
from mdt_cli.services.build.masking import build_selector
from mdt_cli.services.events import Event, Note, SamplesDone
from mdt_cli.services.meeting import Meeting, as_only_writer
from mdt_cli.services.model import LoadedModel, load_trained
from mdt_cli.services.runtime import own_device
from mdt_cli.services.sample.batches import generate_share
from mdt_cli.services.sample.options import parse_seeds
from mdt_cli.services.sample.strip_images import open_strip_images
from mdt_cli.services.strips import (
    cannot_restore,
    hide,
    make_strips,
    save_strips,
    strip_size,
    targets_are_normalised,
)
from mdt_cli.services.work import Share

# Without --seeds at most so many images, each with its own number as its seed.
MOST_UNASKED = 64
ON_THE_GRID = 48


@dataclass(frozen=True)
class ReconstructRequest:
    """`images`: a folder, an archive, one image, or a latent cache like that of the run."""

    weights: Path
    out: Path
    images: Path
    mask_ratio: float = 0.75
    seeds: str | None = None
    batch_size: int = 64
    ema: str | None = None
    codec: str | None = None
    device: str | None = None
    only: tuple[str, ...] = ()  # patterns of the paths that are read; none means all images


def reconstruct(request: ReconstructRequest) -> Iterator[Event]:
    """Write a strip for each seed; the last event of the first process is `SamplesDone`.

    Seed k hides patches of image k, counted in the order of their names, modulo their number.
    """
    if not 0 <= request.mask_ratio < 1:
        raise MdtError(
            f"--mask-ratio {request.mask_ratio:g} is not a share of the patches",
            "give a number from 0 up to, but not including, 1",
        )
    if request.batch_size < 1:
        raise MdtError(f"--batch-size {request.batch_size} is not above 0")
    asked = None if request.seeds is None else parse_seeds(request.seeds)
    share = Share.from_environment()
    yield from as_only_writer(request.out, True, share, _reconstruct(request, asked, share))


def _reconstruct(
    request: ReconstructRequest, asked: list[int] | None, share: Share
) -> Iterator[Event]:
    trained = load_trained(request.weights, request.ema, own_device(request.device), masked=True)
    why = cannot_restore(trained.loss, trained.config.masking)
    if why is not None:
        raise MdtError(
            f"{request.weights} cannot restore images: {why}",
            "reconstruction needs a masked run with objective.kind reconstruction (-p lmd)",
        )
    images = _open(request, trained)
    seeds = asked or _spread(len(images))
    if len(seeds) < len(images) and asked is None:
        yield Note(f"{len(seeds)} of {len(images)} images, evenly spread; --seeds chooses others")
    draw_batch = _Restoring(request, trained, images)
    if draw_batch.normalised:
        yield Note(
            "this run predicts normalised patches: brightness and contrast are the original's"
        )
    job = _job(request, trained, images, seeds, draw_batch)
    folder = PngFolder(request.out, job)
    folder.check()
    started = time.monotonic()
    drawn = yield from generate_share(
        folder, job, draw_batch, share, Meeting(share, request.out, is_folder=True)
    )
    if drawn is None:
        return
    names = [images.name(seed % len(images)) for seed in seeds]
    path = folder.finish(
        {"weights_path": str(trained.path), "images": names, "torch": torch.__version__}
    )
    shown = range(min(len(seeds), ON_THE_GRID))
    found = folder.images(shown)
    save_strips(request.out / GRID, [found[position] for position in shown])
    if len(shown) < len(seeds):
        yield Note(f"the grid shows the first {len(shown)} of {len(seeds)} strips")
    yield SamplesDone(
        path=str(path),
        grid=str(request.out / GRID),
        count=len(seeds),
        drawn=drawn,
        processes=share.of,
        seconds=time.monotonic() - started,
        weights=str(trained.path),
        ema=trained.ema,
        step=trained.step,
        settings=dict(job.settings),
    )


def _spread(count: int) -> list[int]:
    """Numbers of images from all over the list, in which those of a class lie together."""
    shown = min(count, MOST_UNASKED)
    return [k * count // shown for k in range(shown)]


class _Restoring:
    """Seeds of a batch to strips."""

    def __init__(
        self, request: ReconstructRequest, trained: LoadedModel, images: "_Images"
    ) -> None:
        self._trained, self._images, self._ratio = trained, images, request.mask_ratio
        self._device = next(trained.network.parameters()).device
        self.codec = codec_from_facts(trained.facts["codec"], self._device, request.codec)
        self._units = latent_units(trained.config.data, trained.facts["codec"])
        self._selector = build_selector(trained.config.masking, trained.network.grid)
        self.normalised = targets_are_normalised(trained.config.masking)
        # Fails before any work where the ratio keeps nothing.
        self.num_kept = hide(self._selector, trained.network.grid, self._ratio, [0]).kept_BK.shape[
            1
        ]

    def __call__(
        self, job: Job, positions: range
    ) -> Generator[tuple[int, int], None, Mapping[int, Pixels]]:
        # The network is asked once: there are no steps to report.
        yield from ()
        seeds = [job.seeds[position] for position in positions]
        indices = [seed % len(self._images) for seed in seeds]
        network = self._trained.network
        subset = hide(self._selector, network.grid, self._ratio, seeds)
        try:
            with float32():
                clean, images = self._images.read(indices, self.codec)
                strips = make_strips(
                    network,
                    self.codec,
                    clean.to(self._device),
                    images,
                    subset.to(self._device),
                    self.normalised,
                    self._trained.num_classes,
                    self._units,
                )
        except torch.OutOfMemoryError as error:
            raise MdtError(
                f"a batch of {job.batch_size} images does not fit in the memory of {self._device}",
                f"try --batch-size {max(1, job.batch_size // 2)}",
            ) from error
        return dict(zip(positions, strips, strict=True))


class _Images(Protocol):
    def __len__(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def name(self, index: int) -> str: ...

    def read(self, indices: list[int], codec: Codec) -> tuple[Tensor, Tensor | None]:
        """Latents [B, C, H, W], and the images they are of [B, 3, S, S] where they exist."""
        ...


class _Pictures:
    """Images of any source, cropped as `encode-latents` crops them; latents are the mode."""

    def __init__(self, source: ImageSet, size: int) -> None:
        self._source, self._size = source, size
        self.digest = source.digest

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        return self._source.names[index]

    def read(self, indices: list[int], codec: Codec) -> tuple[Tensor, Tensor | None]:
        pixels = torch.from_numpy(np.stack([self._pixels(index) for index in indices]))
        images = pixels.float().div_(127.5).sub_(1)
        return codec.encode(images)[0], images

    def _pixels(self, index: int) -> Any:
        try:
            raw = self._source.reader.read(self._source.locations[index])
            return read_image(raw, self._size).pixels
        except (UnreadableError, OSError) as error:
            raise MdtError(
                f"{self.name(index)} cannot be used: {error}",
                "remove it, or choose other images with --seeds",
            ) from error


class _CacheRows:
    """Rows of a latent cache; the images are what the codec makes of them."""

    def __init__(self, cache: LatentCache) -> None:
        self._cache = cache
        self.digest = cache.facts.digest

    def __len__(self) -> int:
        return len(self._cache)

    def name(self, index: int) -> str:
        return f"row {index}"

    def read(self, indices: list[int], codec: Codec) -> tuple[Tensor, Tensor | None]:
        return self._cache.read(torch.tensor(indices)).mean, None


def _open(request: ReconstructRequest, trained: LoadedModel) -> _Images:
    path = request.images
    if (path / MANIFEST).is_file() or (path / PLAN).is_file():
        cache = open_cache(path)
        check_same_data(trained.facts, cache, trained.path, classes=False)
        return _CacheRows(cache)
    size = int(trained.facts["image_size"])
    if path.is_file() and is_image(path.name):
        one = Found(path.name, path.name, str(path.stat().st_size))
        return _Pictures(make_set(path, "file", FolderReader(path.parent), [one], None, {}), size)
    reading = Reading(only=request.only)
    return _Pictures(open_strip_images(path, reading, request.out), size)


def _job(
    request: ReconstructRequest,
    trained: LoadedModel,
    images: _Images,
    seeds: list[int],
    restoring: _Restoring,
) -> Job:
    side = int(trained.facts["image_size"])
    num_patches = trained.network.num_tokens
    settings = {
        "weights": trained.digest,
        "ema": trained.ema,
        "step": trained.step,
        "objective": trained.loss.kind,
        "reconstruct": {
            "pictures": "original, hidden patches grey, restored",
            "images_digest": images.digest,
            "images": len(images),
            "mask_ratio": request.mask_ratio,
            "selector": trained.config.masking.selector.model_dump(mode="json"),
            "patches": num_patches,
            "hidden": num_patches - restoring.num_kept,
            "visible_patches": "those of the original",
            "hidden_patches": (
                "predicted with mean 0 and variance 1; mean and spread are those of the original"
                if restoring.normalised
                else "predicted"
            ),
        },
        "uint8": "round",
        "codec": codec_facts(restoring.codec),
        "image_size": side,
        "precision": "float32",
    }
    return Job(settings, seeds, None, [], request.batch_size, side, strip_size(side))
