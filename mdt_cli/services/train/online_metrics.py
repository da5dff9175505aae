"""Scores while a run trains: EMA weights, few samples, reference features kept in the run folder.

All processes sample and extract, batch by batch in turn; the first one computes and writes. Signals
are handled between two batches, so no process waits for the others longer than a batch takes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mdt_cli.artifacts import run_folder
from mdt_cli.artifacts.latent_cache.read import LatentCache
from mdt_cli.artifacts.weights import read_tensors, save_tensors
from mdt_cli.config.evaluation import FACTS, MetricName, facts_of, that_need
from mdt_cli.core.codecs.codec import Codec, codec_from_facts, decoded
from mdt_cli.core.precision import float32
from mdt_cli.core.rng import stream
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path
from mdt_cli.metrics.compute import compute
from mdt_cli.metrics.extractors.build import build_extractor
from mdt_cli.metrics.extractors.extractor import Extractor, extract_batch
from mdt_cli.metrics.features import ALL_ROWS, Features, Gaussian, Side
from mdt_cli.metrics.statistics import Statistics
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.build.sampler import check_sampling, generate_steps
from mdt_cli.services.events import Event, Note, ScoresDone, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.batches import TrainData
from mdt_cli.services.train.look import CUT, Look
from mdt_cli.services.train.placement import Placement
from mdt_cli.services.train.previews import sampling_while_training

FOLDER = "evaluation"
# Every metric that a run can compute is defined for this many images a side.
FEWEST = max(2, *(facts.neighbours + 1 for facts in FACTS if facts.online))


class Scorer:
    """Scores the first EMA weights of a run; see `open_scorer`.

    It is built before the first step, so that what cannot be scored is refused then.
    """

    def __init__(self, extractor: Extractor, codec: Codec, placement: Placement) -> None:
        self._extractor, self._codec, self._placement = extractor, codec, placement
        self._reference_MD: Tensor | None = None

    def score(self, look: Look, stop: Stop) -> Iterator[Event]:
        """Sample, extract, compute; the record goes to `metrics.jsonl`. All processes call it.

        Every random number comes from the seeds 0, 1, ...: the run's own streams are not touched.
        """
        begun = time.monotonic()
        table = look.data.config.evaluation
        if self._reference_MD is None:
            self._reference_MD = yield from self._reference(look, stop)
        samples_ND = torch.empty(0)
        if not stop.heard:
            seeds = torch.arange(table.count).split(table.batch_size)
            samples_ND = yield from self._shared(
                look, stop, seeds, lambda part: self._samples(look, part.tolist(), stop), "scoring"
            )
        if len(samples_ND) < table.count:
            yield Warned(f"step {look.step}: stopped while scoring; no scores")
            return
        if not self._placement.is_first or self._reference_MD is None:
            return
        if not bool(samples_ND.isfinite().all()):
            # Recorded, since otherwise every start of the run would try again.
            failed = {"step": look.step, "evaluation/failed": 1}
            run_folder.append(look.folder / run_folder.METRICS, failed)
            yield Warned(f"step {look.step}: the samples hold NaN; no scores")
            return
        values = scores(samples_ND, self._reference_MD, table.metrics, self._extractor)
        record = {"step": look.step, **{f"evaluation/{k}": v for k, v in values.items()}}
        run_folder.append(look.folder / run_folder.METRICS, record)
        yield ScoresDone(look.step, values, time.monotonic() - begun)

    def _shared(
        self,
        look: Look,
        stop: Stop,
        batches: Sequence[Tensor],
        latents: Callable[[Tensor], Generator[Event, None, Tensor]],
        title: str,
    ) -> Generator[Event, None, Tensor]:
        """Features of all batches, in order, on every process; fewer once a stop was heard.

        What is in a batch, and so its rounding, does not depend on the number of processes.
        """
        own, of = self._placement.rank, self._placement.processes
        rows: list[Tensor] = []
        for first in range(0, len(batches), of):
            group = batches[first : first + of]
            # Processes exchange equally many rows each; those beyond a batch are cut off again.
            padded_BD = torch.zeros(len(batches[0]), self._extractor.dimensions)
            if own < len(group):
                padded_BD[: len(group[own])] = self._features(
                    (yield from latents(group[own])), look
                )
            everyone = self._placement.gather(padded_BD).cpu()
            parts = everyone.split(len(padded_BD))[: len(group)]
            rows += [part[: len(batch)] for part, batch in zip(parts, group, strict=True)]
            yield look.progress(title)
            if stop.everywhere(of):
                break
        return torch.cat(rows)

    def _samples(self, look: Look, seeds: list[int], stop: Stop) -> Generator[Event, None, Tensor]:
        facts, latents = look.data.cache.facts, torch.empty(0)
        sampling = sampling_while_training(
            look.data.config, look.data.config.evaluation.steps, look.data.conditional
        )
        with look.evaluating(look.first_average):
            states = generate_steps(
                look.network,
                diffusion_of(look.data.loss),
                sampling,
                facts.latent_shape,
                look.num_classes,
                seeds,
                None,
                look.device,
            )
            for step, state in enumerate(states, start=1):
                latents = state
                # With several processes all of them stop after the same batch.
                if self._placement.processes == 1:
                    stop.raise_if_asked(CUT)
                yield look.progress(f"scoring, step {step} of {sampling.steps}")
        return latents.float()

    def _features(self, latents: Tensor, look: Look) -> Tensor:
        # Kept features of the reference must not depend on the precision of the run.
        with float32():
            images = decoded(self._codec, latents)
        pixels = to_uint8(images, look.data.config.sampling.uint8).numpy()
        ready = np.stack([self._extractor.prepare(image) for image in pixels])
        return extract_batch(self._extractor, torch.from_numpy(ready).to(look.device))

    def _reference(self, look: Look, stop: Stop) -> Generator[Event, None, Tensor | None]:
        """Features [M, D] of some images of the cache, read from the run folder if they are there.

        None after a stop. Only the first process has those of the run folder.
        """
        table, cache, placement = look.data.config.evaluation, look.data.cache, self._placement
        file = look.folder / FOLDER / f"reference-{self._key(look)[:16]}.safetensors"
        features_MD = torch.empty(0)
        # The first process decides for all: others may not see a file of a shared folder yet.
        if placement.is_first and file.is_file():
            try:
                features_MD = read_tensors(file)["features"]
            except (MdtError, KeyError):
                yield Warned(f"{file} is damaged; extracting its features again")
        if placement.any(len(features_MD) > 0):
            return features_MD
        order = torch.randperm(len(cache), generator=stream("evaluation reference"))
        chosen = order[: table.reference].sort().values
        features_MD = yield from self._shared(
            look,
            stop,
            chosen.split(table.batch_size),
            lambda part: _read(cache, part, look.device),
            "scoring the reference",
        )
        if len(features_MD) < len(chosen):
            return None
        if placement.is_first:
            with atomic_path(file) as temporary:
                save_tensors(temporary, {"features": features_MD}, {"mdt.images": str(len(chosen))})
            yield Note(f"features of {len(chosen):,} images of the cache are kept in {file}")
        return features_MD

    def _key(self, look: Look) -> str:
        about = [
            look.data.cache.facts.digest,
            look.data.config.evaluation.reference,
            look.data.config.sampling.uint8,
            self._extractor.name,
            self._extractor.weights_sha256,
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _read(cache: LatentCache, rows: Tensor, device: torch.device) -> Generator[Event, None, Tensor]:
    yield from ()
    return cache.read(rows).mean.to(device)


def open_scorer(data: TrainData, placement: Placement) -> Scorer:
    """The scorer of a run with `evaluation.every` above 0. MdtError for what cannot be scored."""
    config, cache, table = data.config, data.cache, data.config.evaluation
    impossible = [name for name in table.metrics if not facts_of(name).online]
    if impossible:
        raise MdtError(
            f"evaluation.metrics: {', '.join(impossible)} cannot be computed while training",
            f"use some of {', '.join(facts.name for facts in FACTS if facts.online)}",
        )
    if min(table.count, table.reference, len(cache)) < FEWEST:
        raise MdtError(
            f"evaluation.count {table.count} and evaluation.reference {table.reference} of "
            f"{len(cache)} images: a score needs at least {FEWEST} on both sides"
        )
    sampling = sampling_while_training(config, table.steps, data.conditional)
    check_sampling(sampling, diffusion_of(data.loss))
    extractor = build_extractor(table.extractor, placement.device)
    classified = ", ".join(that_need("classes", table.metrics))
    if classified and extractor.head_CD is None:
        raise MdtError(
            f"evaluation.metrics: {classified} needs a class layer, which {extractor.name} lacks",
            f"leave {classified} out",
        )
    codec = codec_from_facts(dict(cache.facts.codec), placement.device, None)
    return Scorer(extractor, codec, placement)


def scores(
    samples_ND: Tensor,
    reference_MD: Tensor,
    metrics: tuple[MetricName, ...],
    extractor: Extractor,
) -> dict[str, float]:
    """Each metric's value under the name it has in reports; no error of a Fréchet distance."""
    features = Features(
        samples=_side(samples_ND),
        reference=_side(reference_MD),
        head_CD=extractor.head_CD,
        bias_C=extractor.bias_C,
        limits=ALL_ROWS,
    )
    found = compute(features, metrics)
    return {facts_of(name).named_by(extractor.name): found[name]["value"] for name in metrics}


def _side(rows_ND: Tensor) -> Side:
    """Rows in the order of seeds or of the cache; their moments in one pass over all of them."""
    rows = rows_ND.double()
    moments = Statistics(rows.mean(0), rows.T.cov(), digest="", count=len(rows))
    return Side(Gaussian(moments), rows_ND)
