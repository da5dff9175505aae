"""From a run or weights to a model that others can load, compared with the original first."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mdt_cli.artifacts.weights import read_header, save_weights
from mdt_cli.core.codecs.codec import Codec, codec_from_facts
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.build.sampler import check_sampling
from mdt_cli.services.events import Event, ExportDone, Note, Warned
from mdt_cli.services.export import diffusers_dit, diffusers_folder
from mdt_cli.services.export.model_card import (
    Card,
    is_of_other_weights,
    read_report,
    render,
    run_report,
    scored_weights,
)
from mdt_cli.services.export.program import require_onnx, write_onnx, write_torch_export
from mdt_cli.services.meeting import as_only_writer
from mdt_cli.services.model import (
    IMAGES,
    LoadedModel,
    check_parity,
    fixed_inputs,
    largest_difference,
    load_trained,
)
from mdt_cli.services.work import Share
from mdt_cli.text import nearest

FORMATS = ("diffusers", "safetensors", "diffusers-dit", "torch-export", "onnx")
# Formats that are one file, and how its name ends.
SUFFIXES = {"safetensors": ".safetensors", "torch-export": ".pt2"}
# Formats without a card, and what they cannot hold.
UNUSED = {
    "safetensors": ("codec", "license", "report"),
    "torch-export": ("license", "report"),
    "onnx": ("license", "report"),
}
CARD = "README.md"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ExportRequest:
    """`ema` and `codec` as in sampling; `report` goes into the model card of a folder."""

    source: Path
    out: Path
    format: str = "diffusers"
    ema: str | None = None
    codec: str | None = None
    license: str | None = None
    report: Path | None = None


def export(request: ExportRequest) -> Iterator[Event]:
    """Write the model, or nothing; ends with ExportDone. Raises MdtError."""
    if request.format not in FORMATS:
        near = nearest(request.format, FORMATS)
        meant = f"; did you mean {near}?" if near else ""
        raise MdtError(f"--format: no {request.format}{meant}", f"choose from {', '.join(FORMATS)}")
    yield from as_only_writer(request.out, False, Share.from_environment(), _export(request))


def _export(request: ExportRequest) -> Iterator[Event]:
    if request.out.exists():
        raise MdtError(f"{request.out} exists already", "choose another name, or remove it first")
    suffix = SUFFIXES.get(request.format, request.out.suffix)
    if request.out.suffix != suffix:
        raise MdtError(
            f"--format {request.format} writes a file whose name ends in {suffix}",
            f"such as {request.out}{suffix}",
        )
    idle = [f"--{name}" for name in UNUSED.get(request.format, ()) if getattr(request, name)]
    if idle:
        are = "is" if len(idle) == 1 else "are"
        yield Warned(f"{', '.join(idle)} {are} ignored with --format {request.format}")
    if request.format == "onnx":
        require_onnx()
    trained = load_trained(request.source, request.ema, CPU)
    if request.format != "safetensors":
        check_sampling(trained.config.sampling, diffusion_of(trained.loss))
    if request.codec is not None and request.format in ("torch-export", "onnx"):
        trained = _decoded_by(_codec(request, trained), trained)
    match request.format:
        case "safetensors":
            difference = _safetensors(request, trained)
        case "diffusers":
            difference = yield from _diffusers(request, trained)
        case "torch-export":
            with atomic_path(request.out) as temporary:
                inputs = fixed_inputs(trained)
                difference = write_torch_export(temporary, trained, inputs)
                check_parity(difference, "the exported program")
        case "onnx":
            with atomic_path(request.out) as temporary:
                temporary.mkdir()
                inputs = fixed_inputs(trained)
                difference = write_onnx(temporary, trained, inputs)
                check_parity(difference, "the exported program")
        case _:
            difference = yield from _dit(request, trained)
    files = [path for path in sorted(request.out.rglob("*")) if path.is_file()] or [request.out]
    yield ExportDone(
        path=str(request.out),
        format=request.format,
        parity=difference,
        parameters=sum(p.numel() for p in trained.network.parameters()),
        step=trained.step,
        ema=trained.ema,
        bytes=sum(path.stat().st_size for path in files),
        files=tuple(path.relative_to(request.out).as_posix() for path in files),
    )


def _safetensors(request: ExportRequest, trained: LoadedModel) -> float:
    # A network that restores hidden patches needs the parts that only masked passes use.
    masked = trained.loss.restores
    if masked:
        trained = load_trained(request.source, request.ema, CPU, masked)
    with atomic_path(request.out) as temporary:
        tensors = dict(trained.network.named_parameters())
        save_weights(temporary, tensors, read_header(trained.path))
        again = load_trained(temporary, None, CPU, masked)
        difference = largest_difference(
            trained.network, lambda x, t, y: again.network(x, t, y).final, fixed_inputs(trained)
        )
        check_parity(difference, "the written file")
    return difference


def _diffusers(request: ExportRequest, trained: LoadedModel) -> Generator[Event, None, float]:
    codec = _codec(request, trained)
    trained = _decoded_by(codec, trained)
    yield from _note_license(request)
    report = yield from _report(request, trained)
    with atomic_path(request.out) as temporary:
        temporary.mkdir()
        diffusers_folder.write_folder(temporary, trained, codec)
        inputs = fixed_inputs(trained)
        difference = diffusers_folder.difference(temporary, trained, inputs)
        check_parity(difference, "the exported network")
        card = Card(
            title=_title(request),
            usage=diffusers_folder.usage(trained),
            parity=(
                "The network of this folder was loaded with diffusers and compared with the "
                f"trained one on {IMAGES} fixed inputs: maximum difference "
                f"{difference:.2g}. The same seed gives the same image as `mdt sample`."
            ),
            license=request.license,
            report=report,
        )
        (temporary / CARD).write_text(render(card, trained), "utf-8")
    return difference


def _dit(request: ExportRequest, trained: LoadedModel) -> Generator[Event, None, float]:
    diffusers_dit.require_plain_dit(trained)
    codec = _codec(request, trained)
    diffusers_dit.require_autoencoder_kl(codec)
    trained = _decoded_by(codec, trained)
    yield from _note_license(request)
    report = yield from _report(request, trained)
    with atomic_path(request.out) as temporary:
        temporary.mkdir()
        diffusers_dit.write_folder(temporary, trained, codec)
        inputs = fixed_inputs(trained)
        difference = diffusers_folder.difference(temporary, trained, inputs)
        check_parity(difference, "the exported network")
        plain = diffusers_dit.plain_difference(temporary, trained, inputs)
        yield Note(
            "diffusers' own DiTTransformer2DModel spaces the frequencies of its time embedding "
            f"differently: without trust_remote_code, outputs differ by up to {plain:.2g}"
        )
        card = Card(
            title=_title(request),
            usage=diffusers_dit.usage(trained),
            parity=(
                "The network of this folder was loaded with diffusers and compared with the "
                f"trained one on {IMAGES} fixed inputs: maximum difference "
                f"{difference:.2g}; without `trust_remote_code`, as diffusers' unchanged "
                f"DiTTransformer2DModel: {plain:.2g}."
            ),
            caveats=diffusers_dit.caveats(trained),
            license=request.license,
            report=report,
        )
        (temporary / CARD).write_text(render(card, trained), "utf-8")
    return difference


def _codec(request: ExportRequest, trained: LoadedModel) -> Codec:
    return codec_from_facts(trained.facts["codec"], CPU, request.codec)


def _decoded_by(codec: Codec, trained: LoadedModel) -> LoadedModel:
    """With the facts of the codec that was opened: its weights may have moved."""
    return replace(trained, facts={**trained.facts, "codec": codec.facts()})


def _note_license(request: ExportRequest) -> Iterator[Event]:
    if request.license is None:
        yield Note('the model card has license "unknown"; set it with --license')


def _report(
    request: ExportRequest, trained: LoadedModel
) -> Generator[Event, None, Mapping[str, Any] | None]:
    """The report for the card; one found in the run folder must be of exactly these weights."""
    if request.report is not None:
        report = read_report(request.report)
        if is_of_other_weights(report, trained):
            yield Warned(
                f"{request.report} was computed from other weights; the model card says so"
            )
        return report
    path = run_report(trained.path)
    if path is None:
        return None
    try:
        report = read_report(path)
    except MdtError as error:
        yield Note(f"the model card has no scores: {error.message}")
        return None
    if scored_weights(report) != trained.digest:
        yield Note(
            "the report in the run folder is not recorded as computed from these weights, so the "
            "model card leaves it out; --report includes it"
        )
        return None
    return report


def _title(request: ExportRequest) -> str:
    return request.out.resolve().name
