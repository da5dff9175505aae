"""README.md of an exported model: what it is, how to use it, where it comes from, its scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdt_cli import __version__
from mdt_cli.artifacts.report_schema import ReportFields
from mdt_cli.artifacts.run_folder import CONFIG
from mdt_cli.config.load import load_config
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import read_json
from mdt_cli.schema import check_schema
from mdt_cli.services.model import LoadedModel
from mdt_cli.text import fenced, markdown

UNKNOWN_LICENSE = "unknown"
SHOWN_CLASSES = 50
REPORT = "report.json"


@dataclass(frozen=True)
class Card:
    """What differs between formats: how to load, what was checked, what differs from mdt."""

    title: str
    usage: str
    parity: str
    caveats: tuple[str, ...] = ()
    license: str | None = None
    report: Mapping[str, Any] | None = None


def render(card: Card, trained: LoadedModel) -> str:
    """The whole README.md, with its metadata block."""
    tags = ["diffusion", "transformer", "masked-diffusion-transformer", "image-generation"]
    tags.append("class-conditional" if trained.num_classes else "unconditional")
    front = [
        "---",
        f"license: {json.dumps(card.license or UNKNOWN_LICENSE)}",
        "library_name: diffusers",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {markdown(card.title)}",
        _summary(trained),
        "## Use\n\n" + fenced("python", card.usage),
    ]
    if card.caveats:
        lines = "\n".join(f"- {caveat}" for caveat in card.caveats)
        parts.append(f"## What differs from sampling with mdt\n\n{lines}")
    parts += [
        f"## Check\n\n{card.parity}",
        "## Data\n\n" + _data(trained.facts),
        "## Scores\n\n" + _scores(card.report, trained),
        "## Configuration\n\n" + fenced("toml", config_toml(trained)),
        f"Made by mdt {__version__} from weights with SHA-256 `{trained.digest}`.",
    ]
    return "\n\n".join(parts) + "\n"


def config_toml(trained: LoadedModel) -> str:
    """The training configuration, every key."""
    source = "the trained weights"
    text = to_toml(load_config([], [], trained.config.model_dump(mode="json"), source))
    lines = [line.removesuffix(f"# {source}").rstrip() for line in text.splitlines()[1:]]
    return "\n".join(lines).strip()


def _summary(trained: LoadedModel) -> str:
    shape = "x".join(str(side) for side in trained.facts["latent_shape"])
    parameters = sum(p.numel() for p in trained.network.parameters())
    classes = trained.num_classes
    kind = f"{classes} classes" if classes else "no classes"
    weights = (
        "online weights" if trained.ema == "online" else f"EMA weights ({markdown(trained.ema)})"
    )
    return (
        f"A denoising transformer with {parameters:,} parameters for images of "
        f"{trained.facts['image_size']} x {trained.facts['image_size']} pixels, {kind}. "
        f"It works on {shape} latents ({markdown(codec_name(trained.facts))}), was trained with "
        f"the {trained.config.objective.kind} objective and holds the {weights} of step "
        f"{trained.step:,}."
    )


def codec_name(facts: Mapping[str, Any]) -> str:
    """The codec by id or name; of a local folder only its last part."""
    codec = facts["codec"]
    name = str(codec.get("id") or codec["name"])
    return Path(name).name if Path(name).is_absolute() else name


def class_names(trained: LoadedModel) -> tuple[str, ...]:
    """Names by class index; empty where the network has no classes."""
    if not trained.num_classes:
        return ()
    return tuple(trained.facts["class_names"])


def _data(facts: Mapping[str, Any]) -> str:
    names = list(facts["class_names"])
    shown = ", ".join(names[:SHOWN_CLASSES])
    if len(names) > SHOWN_CLASSES:
        shown += f" and {len(names) - SHOWN_CLASSES} more"
    rows = [
        ("images", f"{facts['count']:,}" if "count" in facts else "not recorded"),
        ("image size", str(facts["image_size"])),
        ("classes", shown or "none"),
        ("codec", codec_name(facts)),
        ("codec weights", facts["codec"].get("weights_sha256") or "none"),
        ("latent shape", "x".join(str(side) for side in facts["latent_shape"])),
        ("cache digest", str(facts.get("digest", "not recorded"))),
    ]
    return _table(("fact", "value"), rows)


def _scores(report: Mapping[str, Any] | None, trained: LoadedModel) -> str:
    if report is None:
        return "Not evaluated."
    rows = [
        (
            name,
            "-" if metric["value"] is None else f"{metric['value']:.5g}",
            *(f"{n:,}" if (n := metric.get(key)) else "-" for key in ("samples", "reference")),
            str(metric.get("extractor", "-")),
        )
        for name, metric in report["metrics"].items()
    ]
    parts = [_table(("metric", "value", "samples", "reference", "extractor"), rows)]
    parts.append(f"Comparability: {markdown(report['comparability']['verdict'])}.")
    provenance = _provenance(report)
    if "sampler" in provenance:
        drawn = {"sampler": provenance["sampler"], "guidance": provenance.get("guidance")}
        parts.append(
            "The scored samples were generated with:\n\n" + fenced("json", json.dumps(drawn))
        )
    if is_of_other_weights(report, trained):
        parts.append(
            "The scored samples were generated with another weights file, with SHA-256 "
            f"{markdown(str(provenance['weights']))}."
        )
    return "\n\n".join(parts)


def scored_weights(report: Mapping[str, Any]) -> str | None:
    """SHA-256 of the weights that generated the scored samples; None where not recorded."""
    return _provenance(report).get("weights")


def is_of_other_weights(report: Mapping[str, Any], trained: LoadedModel) -> bool:
    """Whether the report records other weights than the exported ones."""
    return scored_weights(report) not in (None, trained.digest)


def _provenance(report: Mapping[str, Any]) -> Mapping[str, Any]:
    samples = report.get("samples")
    found = samples.get("provenance") if isinstance(samples, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(markdown(cell) for cell in line) + " |" for line in lines)


def run_report(weights: Path) -> Path | None:
    """The report in the run folder: of run/checkpoints/step-0000001/ema-0.99.safetensors, run/."""
    checkpoint = weights.resolve().parent
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run / CONFIG).is_file():
        return None
    return run / REPORT if (run / REPORT).is_file() else None


def read_report(path: Path) -> Mapping[str, Any]:
    """A report of `mdt evaluate`, or the one in a folder; MdtError where it is not one."""
    if path.is_dir():
        path = path / REPORT
    try:
        report = read_json(path)
    except (OSError, ValueError) as error:
        raise MdtError(f"the report {path} cannot be read: {error}") from error
    if isinstance(report, dict) and "comparison" in report:
        raise MdtError(
            f"{path} compares several sets of samples",
            "give the report of one set of samples: mdt evaluate SAMPLES REFERENCE",
        )
    if not isinstance(report, dict) or not {"metrics", "comparability"} <= report.keys():
        raise MdtError(
            f"{path} is not a report of mdt evaluate", "give the report.json that it wrote"
        )
    try:
        check_schema(ReportFields, report)
    except ValueError as error:
        raise MdtError(f"the report {path} is damaged: {error}", "evaluate again") from error
    return report
