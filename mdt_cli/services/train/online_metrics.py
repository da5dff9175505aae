"""Scores while a run trains: averaged weights, few samples, reference features kept on disk.

All processes draw and extract, batch by batch in turn; the first compares and writes. Between two
batches they hear a signal, so none waits for the others longer than a batch takes.
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
from mdt_cli.config.run import RunConfig
from mdt_cli.config.sampling import NoGuidanceConfig, SamplingConfig
from mdt_cli.core.codecs.codec import Codec, codec_from_facts, decoded
from mdt_cli.core.objectives.base import Loss
from mdt_cli.core.optim.ema import Swapped
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
from mdt_cli.services.build.sampler import check_sampling, generate
from mdt_cli.services.events import Event, Note, Progress, ScoresDone, Warned
from mdt_cli.services.runtime import Stop
from mdt_cli.services.train.trainer import Trainer

FOLDER = "evaluation"
# Every metric that a run can compute is defined for this many images a side.
FEWEST = max(2, *(facts.neighbours + 1 for facts in FACTS if facts.online))


class Scorer:
    """Made by `open_scorer` before the first step, so that what cannot work is told then."""

    def __init__(self, extractor: Extractor, codec: Codec) -> None:
        self._extractor, self._codec = extractor, codec
        self._reference_MD: Tensor | None = None

    def score(self, trainer: Trainer, stop: Stop) -> Iterator[Event]:
        """Draw, extract, compare; the record goes to `metrics.jsonl`. All processes call it.

        Every random number comes from the seeds 0, 1, ...: the run's own streams are not touched.
        """
        begun = time.monotonic()
        table = trainer.config.evaluation
        if self._reference_MD is None:
            self._reference_MD = yield from self._reference(trainer, stop)
        samples_ND = torch.empty(0)
        if not stop.heard:
            seeds = torch.arange(table.count).split(table.batch_size)
            trainer.network.eval()
            samples_ND = yield from self._shared(
                trainer, stop, seeds, lambda part: self._draw(trainer, part.tolist()), "scoring"
            )
            trainer.network.train()
        if len(samples_ND) < table.count:
            yield Warned(f"step {trainer.step}: stopped before its scores were there; no scores")
            return
        if not trainer.accelerator.is_main_process or self._reference_MD is None:
            return
        if not bool(samples_ND.isfinite().all()):
            # Else every start of the run would try again.
            failed = {"step": trainer.step, "evaluation/failed": 1}
            run_folder.append(trainer.folder / run_folder.METRICS, failed)
            yield Warned(f"step {trainer.step}: the samples hold NaN; no scores")
            return
        values = scores(samples_ND, self._reference_MD, table.metrics, self._extractor)
        record = {"step": trainer.step, **{f"evaluation/{k}": v for k, v in values.items()}}
        run_folder.append(trainer.folder / run_folder.METRICS, record)
        yield ScoresDone(trainer.step, values, time.monotonic() - begun)

    def _shared(
        self,
        trainer: Trainer,
        stop: Stop,
        batches: Sequence[Tensor],
        latents: Callable[[Tensor], Tensor],
        title: str,
    ) -> Generator[Event, None, Tensor]:
        """Features of all batches, in order, on every process; fewer once a stop was heard.

        What is in a batch, and so its rounding, does not depend on the number of processes.
        """
        accelerator = trainer.accelerator
        own, of = accelerator.process_index, accelerator.num_processes
        rows: list[Tensor] = []
        for first in range(0, len(batches), of):
            group = batches[first : first + of]
            # Processes exchange equally many rows each; those beyond a batch are cut off again.
            padded_BD = torch.zeros(len(batches[0]), self._extractor.dimensions)
            if own < len(group):
                padded_BD[: len(group[own])] = self._features(latents(group[own]), trainer)
            everyone = accelerator.gather(padded_BD.to(trainer.device)).cpu()
            parts = everyone.split(len(padded_BD))[: len(group)]
            rows += [part[: len(batch)] for part, batch in zip(parts, group, strict=True)]
            yield Progress(trainer.step, trainer.config.training.steps, title)
            if stop.everywhere(accelerator):
                break
        return torch.cat(rows)

    def _draw(self, trainer: Trainer, seeds: list[int]) -> Tensor:
        facts = trainer.cache.facts
        ema = next(iter(trainer.emas.values()))
        with Swapped(trainer.network, ema.tensors), torch.no_grad():
            return generate(
                trainer.network,
                diffusion_of(trainer.loss),
                _sampling(trainer.config, trainer.data.conditional),
                facts.latent_shape,
                facts.num_classes if trainer.data.conditional else 0,
                seeds,
                None,
                trainer.device,
            )

    def _features(self, latents: Tensor, trainer: Trainer) -> Tensor:
        # Kept features of the reference must not depend on the precision of the run.
        with float32():
            images = decoded(self._codec, latents)
        pictures = to_uint8(images, trainer.config.sampling.uint8).numpy()
        ready = np.stack([self._extractor.prepare(picture) for picture in pictures])
        return extract_batch(self._extractor, torch.from_numpy(ready).to(trainer.device))

    def _reference(self, trainer: Trainer, stop: Stop) -> Generator[Event, None, Tensor | None]:
        """Features [M, D] of some images of the cache, from the run folder where they are.

        None after a stop. Only the first process has those of the run folder.
        """
        table, cache, accelerator = trainer.config.evaluation, trainer.cache, trainer.accelerator
        file = trainer.folder / FOLDER / f"reference-{self._key(trainer)[:16]}.safetensors"
        features_MD = torch.empty(0)
        # One process looks for all: a shared folder may show a file to some of them only.
        if accelerator.is_main_process and file.is_file():
            try:
                features_MD = read_tensors(file)["features"]
            except (MdtError, KeyError):
                yield Warned(f"{file} is damaged and is made again")
        found = torch.tensor(float(len(features_MD)), device=trainer.device)
        if float(accelerator.reduce(found, "sum")) > 0:
            return features_MD
        order = torch.randperm(len(cache), generator=stream("evaluation reference"))
        chosen = order[: table.reference].sort().values
        features_MD = yield from self._shared(
            trainer,
            stop,
            chosen.split(table.batch_size),
            lambda part: cache.read(part).mean.to(trainer.device),
            "scoring the reference",
        )
        if len(features_MD) < len(chosen):
            return None
        if accelerator.is_main_process:
            with atomic_path(file) as temporary:
                save_tensors(temporary, {"features": features_MD}, {"mdt.images": str(len(chosen))})
            yield Note(f"features of {len(chosen):,} images of the cache are kept in {file}")
        return features_MD

    def _key(self, trainer: Trainer) -> str:
        about = [
            trainer.cache.facts.digest,
            trainer.config.evaluation.reference,
            trainer.config.sampling.uint8,
            self._extractor.name,
            self._extractor.weights_sha256,
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def open_scorer(config: RunConfig, cache: LatentCache, loss: Loss, device: torch.device) -> Scorer:
    """The scorer of a run with `evaluation.every` above 0. MdtError for what cannot be scored."""
    table = config.evaluation
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
    conditional = config.data.conditional and cache.facts.num_classes > 0
    check_sampling(_sampling(config, conditional), diffusion_of(loss))
    extractor = build_extractor(table.extractor, device)
    classified = ", ".join(that_need("classes", table.metrics))
    if classified and extractor.head_CD is None:
        raise MdtError(
            f"evaluation.metrics: {classified} needs a class layer, which {extractor.name} lacks",
            f"leave {classified} out",
        )
    return Scorer(extractor, codec_from_facts(dict(cache.facts.codec), device, None))


def _sampling(config: RunConfig, conditional: bool) -> SamplingConfig:
    sampling = config.sampling.model_copy(update={"steps": config.evaluation.steps})
    if not conditional:
        sampling = sampling.model_copy(update={"guidance": NoGuidanceConfig()})
    return sampling


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
