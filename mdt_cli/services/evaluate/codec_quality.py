"""How well a codec reconstructs images: the upper bound for everything sampled through it."""

import importlib.util
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdt_cli import __version__
from mdt_cli.artifacts.open_images import open_images
from mdt_cli.config.evaluation import ExtractorName, ResizeName
from mdt_cli.core.codecs.codec import Codec, open_codec
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.errors import MdtError
from mdt_cli.files import write_json
from mdt_cli.images.decode import Pixels
from mdt_cli.images.reading import EVERYTHING, Reading
from mdt_cli.images.sized import SizedSet, sized
from mdt_cli.metrics.extractors.build import RESIZE_RULES, build_extractor
from mdt_cli.metrics.extractors.extractor import Extractor, extract_batch
from mdt_cli.metrics.extractors.weights import cached_inception
from mdt_cli.metrics.frechet import frechet_distance
from mdt_cli.metrics.psnr_ssim import WINDOW, psnr, ssim
from mdt_cli.metrics.statistics import Moments
from mdt_cli.services.evaluate.checks import FEW_IMAGES, check_outputs
from mdt_cli.services.evaluate.figures import reconstruction_figure
from mdt_cli.services.evaluate.html import write_page
from mdt_cli.services.evaluate.report import device_name
from mdt_cli.services.evaluate.request import page_of
from mdt_cli.services.events import EvaluationDone, Event, Note, Progress, Warned
from mdt_cli.services.meeting import as_only_writer
from mdt_cli.services.runtime import pick_device
from mdt_cli.services.work import Share

CPU_BATCH, GPU_BATCH = 4, 32
SHOWN = 8
# Two batches of features [B, D] on the CPU.
Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ReconstructionRequest:
    """`size` None: the images as they are, all of one square size."""

    images: Path
    codec: str
    size: int | None = None
    extractor: ExtractorName | Path | None = None
    weights: Path | None = None
    resize: ResizeName | None = None
    out: Path | None = None
    batch_size: int | None = None
    device: str | None = None
    reading: Reading = EVERYTHING


def reconstruct(request: ReconstructionRequest) -> Iterator[Event]:
    """Encode to the posterior's mean, decode, compare; the last event is `EvaluationDone`."""
    target = request.out or Path(f"{request.images.name.partition('.')[0]}.reconstruction.json")
    yield from as_only_writer(
        target, False, Share.from_environment(), _reconstruct(request, target)
    )


def _reconstruct(request: ReconstructionRequest, target: Path) -> Iterator[Event]:
    page = page_of(target)
    device = pick_device(request.device)
    images = _squares(request.images, request.size, request.reading)
    count, side = images.count, images.size[0]
    pixels = (images.decode(name, raw) for name, raw in images.read())
    if count < 2:
        raise MdtError(f"{request.images} holds {count} image; no metric is defined below 2")
    name = request.extractor or (
        "inception" if request.weights or cached_inception() else "efficientnet-lite0"
    )
    resize = request.resize or "clean"
    codec = open_codec(request.codec, device)
    codec.latent_shape(side)
    check_outputs(target, page)
    extractor = build_extractor(name, device, request.weights, resize, image_size=(side, side))
    if count < FEW_IMAGES:
        yield Warned(
            f"{count:,} images are few for a Fréchet distance, which is biased upwards below "
            f"{FEW_IMAGES:,}: compare only with the same count (published: 50,000)"
        )
    if side < WINDOW:
        yield Note(f"no ssim: its window is {WINDOW} pixels wide, the images {side}")
    perceptual = _lpips(device)
    if perceptual is None:
        yield Note("no lpips: it needs `pip install lpips` and its weights")
    batch_size = request.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
    found = _Sums(extractor)
    while batch := list(islice(pixels, batch_size)):
        found.add(np.stack(batch), codec, device, perceptual)
        yield Progress(found.count, count)
    report = _report(request, codec, found, side, device_name(device))
    write_json(target, report)
    write_page(page, report, [{"samples": [reconstruction_figure(found.shown)]}])
    yield EvaluationDone(report, str(target), str(page))


class _Sums:
    """Everything that grows with the images; memory does not."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.real, self.made = Moments(extractor.dimensions), Moments(extractor.dimensions)
        self.psnr: list[float] = []
        self.ssim: list[float] = []
        self.lpips: list[float] = []
        self.shown: list[tuple[Pixels, Pixels]] = []

    @property
    def count(self) -> int:
        return len(self.psnr)

    def add(
        self,
        real_BHWC: Pixels,
        codec: Codec,
        device: torch.device,
        perceptual: Perceptual | None,
    ) -> None:
        real_B3HW = torch.from_numpy(real_BHWC).permute(0, 3, 1, 2).float()
        mean, _ = codec.encode((real_B3HW / 127.5 - 1).to(device))
        decoded = codec.decode(mean)
        if not bool(decoded.isfinite().all()):
            raise MdtError("the codec gives NaN or infinity", "its weights or its scale are broken")
        made_BHWC = to_uint8(decoded, "round").numpy()
        made_B3HW = torch.from_numpy(made_BHWC).permute(0, 3, 1, 2).float()
        for moments, images in ((self.real, real_BHWC), (self.made, made_BHWC)):
            ready = np.stack([self.extractor.prepare(image) for image in images])
            rows = extract_batch(self.extractor, torch.from_numpy(ready).to(device))
            moments.add(rows[:, : self.extractor.dimensions])
        self.psnr += psnr(real_B3HW, made_B3HW).tolist()
        if min(real_B3HW.shape[-2:]) >= WINDOW:
            self.ssim += ssim(real_B3HW, made_B3HW).tolist()
        if perceptual is not None:
            self.lpips += perceptual(real_B3HW / 127.5 - 1, made_B3HW / 127.5 - 1).tolist()
        room = SHOWN - len(self.shown)
        self.shown += list(zip(real_BHWC[:room], made_BHWC[:room], strict=True))


def _squares(path: Path, size: int | None, reading: Reading) -> SizedSet:
    """The images, all of one square size."""
    images = sized(open_images(path, reading), size)
    height, width = images.size
    if height != width:
        raise MdtError(
            f"{path} holds {width}x{height} images; a codec is measured on squares",
            "pass --size to crop them as encode-latents does",
        )
    return images


def _lpips(device: torch.device) -> Perceptual | None:
    """LPIPS with AlexNet (Zhang et al. 2018), where the package and its weights are there."""
    if importlib.util.find_spec("lpips") is None:
        return None
    import lpips

    try:
        network = lpips.LPIPS(net="alex", verbose=False).eval().to(device)
    except OSError:  # the weights of AlexNet cannot be fetched
        return None

    @torch.inference_mode()
    def distance(one_B3HW: Tensor, other_B3HW: Tensor) -> Tensor:
        found: Tensor = network(one_B3HW.to(device), other_B3HW.to(device))
        return found.flatten().cpu()

    return distance


def _report(
    request: ReconstructionRequest, codec: Codec, found: _Sums, side: int, device: str
) -> dict[str, Any]:
    extractor = found.extractor
    suffix = "" if extractor.name == "inception" else "_" + extractor.name.replace("-", "_")
    key = "rfid" if not suffix else "rfd" + suffix
    counts = {"samples": found.count, "reference": found.count, "comparable_with": []}
    finite = [value for value in found.psnr if np.isfinite(value)]
    metrics: dict[str, Any] = {
        key: {
            "value": frechet_distance(*found.made.finish(), *found.real.finish()),
            "extractor": extractor.name,
            "resize": extractor.resize,
            **counts,
        },
        "psnr": {
            "value": float(np.mean(finite)) if finite else None,
            "identical": found.count - len(finite),
            "rule": "mean over images of the dB of each; identical images are counted apart",
            **counts,
        },
    }
    if found.ssim:
        metrics["ssim"] = {
            "value": float(np.mean(found.ssim)),
            "rule": "Gaussian window of 11 pixels, on RGB, complete windows only",
            **counts,
        }
    if found.lpips:
        metrics["lpips"] = {"value": float(np.mean(found.lpips)), "rule": "AlexNet", **counts}
    reasons = ["no table family covers reconstruction: compare with the same images, size and crop"]
    if suffix:
        reasons.append(f"the extractor is {extractor.name}, not inception")
    stamp = {"comparable": False, "why_not": reasons, "provided_that": None}
    crop = "as they are" if request.size is None else f"cropped to {side} as encode-latents does"
    path = str(request.images)
    return {
        "format": 1,
        "kind": "reconstruction",
        "metrics": metrics,
        "comparability": {
            "verdict": "; ".join(reasons),
            "adm_tables": stamp,
            "clean_fid_tables": stamp,
        },
        "codec": codec.facts(),
        "extractor": {
            "id": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "dimensions": extractor.dimensions,
            "input_size": extractor.input_size,
            "resize": extractor.resize,
            "resize_rule": RESIZE_RULES[extractor.resize],
        },
        "samples": {
            "path": f"{path} through {request.codec}",
            "kind": "reconstruction",
            "count": found.count,
            "image_size": [side, side],
            "digest": None,
        },
        "reference": {
            "path": path,
            "kind": f"images {crop}",
            "count": found.count,
            "image_size": [side, side],
            "digest": None,
        },
        "software": {
            "mdt": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
            "device": device,
        },
    }
