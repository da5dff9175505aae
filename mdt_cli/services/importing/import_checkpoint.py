"""Convert official weights: read without running code, checked, written with a full header."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli import __version__
from mdt_cli.artifacts.checkpoint import WEIGHTS
from mdt_cli.artifacts.weights import FORMAT, ONLINE, Header, save_weights
from mdt_cli.config.load import Loaded, load_config
from mdt_cli.core.model.adapters.dit import from_official
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, sha256_of, write_json
from mdt_cli.services.build.network import build_network
from mdt_cli.services.events import Event, ImportDone, Note, Warned
from mdt_cli.services.importing.checks import (
    check_finite,
    check_fits,
    computed_positions,
    forward_summary,
    round_trip,
    under_layout_names,
)
from mdt_cli.services.importing.container import Contents, unpack
from mdt_cli.services.importing.data_facts import data_facts, published_codec, repeated
from mdt_cli.services.importing.families import Family, check_family
from mdt_cli.services.importing.recognise import family_named, family_of
from mdt_cli.services.importing.shapes import Asked, Assumed, Seen, Shapes, Value
from mdt_cli.services.meeting import as_only_writer
from mdt_cli.services.model import IMPORTED, load_trained
from mdt_cli.services.work import Share
from mdt_cli.untrusted import read_foreign

STAGE = "import"
CPU = torch.device("cpu")
LABEL_TABLES = frozenset({"y_embedder.embedding_table.weight", "label_emb.weight"})
NO_GUIDANCE = Assumed("none", "there is no null class")


@dataclass(frozen=True)
class ImportRequest:
    """`assignments` are those of --set; None: what is stored, or else the published value."""

    source: Path
    out: Path
    family: str | None = None
    weights: str | None = None
    decoder_depth: int | None = None
    codec: str | None = None
    classes: Path | None = None
    assignments: tuple[str, ...] = ()


def import_checkpoint(request: ImportRequest) -> Iterator[Event]:
    """Write our weights and `import.json`, or nothing; ends with ImportDone. Raises MdtError."""
    yield from as_only_writer(request.out, False, Share.from_environment(), _import(request))


def _import(request: ImportRequest) -> Iterator[Event]:
    source = request.source
    named = None if request.family is None else family_named(request.family)
    if request.out.exists():
        raise MdtError(f"{request.out} exists already", "choose another name, or remove it first")
    held = read_foreign(source)
    family = named or family_of(held, source, request.weights)
    contents = unpack(held, source, request.weights, family.inside)
    check_family(family, contents.tensors, str(source))
    check_finite(contents.tensors, source)
    asked = Asked(
        request.decoder_depth,
        _number(request, "model.num_heads"),
        _number(request, "model.narrow_decoder.num_heads"),
        null_row=_assigned(request, "data.class_dropout") not in ("0", "0.0"),
    )
    seen = family.see(Shapes(contents.tensors, str(source), contents.beside), asked)
    if not asked.null_row:
        # Guidance needs the null class, which such a network was not trained with.
        seen = replace(seen, assumed={**seen.assumed, "sampling.guidance.kind": NO_GUIDANCE})
    loaded = _config(request, family, seen)
    codec = request.codec or published_codec(contents.arguments)
    facts = data_facts(codec, request.classes, seen.latent_shape, seen.num_classes)
    yield from _notes(request, seen, loaded, contents, facts)

    network = build_network(loaded.config, seen.latent_shape, seen.num_classes)
    tensors = under_layout_names(contents, network, family, source)
    if not asked.null_row:
        yield from _add_null_row(tensors)
    check_fits(tensors, network, family, source)
    computed = computed_positions(network, tensors, family, source)
    from_official(network, tensors, family.names)
    trip = round_trip(network, tensors, computed, family, source)
    header = _header(request, contents, loaded, facts)
    yield _write(request, family, contents, seen, network, header, trip)


def _add_null_row(tensors: dict[str, Tensor]) -> Iterator[Event]:
    """Our label tables end in the null class; a network trained without dropout may have none."""
    for name in LABEL_TABLES & tensors.keys():
        table = tensors[name]
        tensors[name] = torch.cat([table, table.new_zeros(1, table.shape[1])])
        yield Note(f"added a row of zeros to {name} for the null class (data.class_dropout=0)")


def _assigned(request: ImportRequest, key: str) -> str | None:
    """The value that --set gives `key`, needed before there is a configuration."""
    pairs = (text.partition("=") for text in request.assignments)
    found = [value.strip() for name, _, value in pairs if name.strip() == key]
    return found[-1] if found else None


def _number(request: ImportRequest, key: str) -> int | None:
    value = _assigned(request, key)
    return int(value) if value is not None and value.isdigit() else None


def _config(request: ImportRequest, family: Family, seen: Seen) -> Loaded:
    """The preset with what the checkpoint determines; --set for what it does not store."""
    custom = {key: assumed.value for key, assumed in seen.assumed.items()}
    derived = [f"{key}={_toml(value)}" for key, value in {**custom, **seen.keys}.items()]
    before = load_config([family.preset], derived)
    loaded = load_config([family.preset], [*derived, *request.assignments])
    for key, value in seen.keys.items():
        if (now := _at(loaded, key)) != _at(before, key):
            raise MdtError(
                f"--set {key}={now}: {request.source} has {value}", f"leave out --set {key}"
            )
    depth = loaded.config.model.decoder_depth
    if request.decoder_depth is not None and request.decoder_depth != depth:
        raise MdtError(
            f"--decoder-depth {request.decoder_depth}: {request.source} has a decoder of {depth}",
            "leave out --decoder-depth",
        )
    return loaded


def _toml(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at(loaded: Loaded, key: str) -> Any:
    return _dotted(loaded.config.model_dump(mode="json"), key)


def _dotted(tree: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _notes(
    request: ImportRequest,
    seen: Seen,
    loaded: Loaded,
    contents: Contents,
    facts: Mapping[str, Any],
) -> Iterator[Event]:
    """What was assumed, and which weights were chosen."""
    for key, assumed in seen.assumed.items():
        value = _at(loaded, key)
        if _assigned(request, key) is None:
            yield Note(
                f"assuming {key}={value} ({assumed.why}); the checkpoint does not store it. "
                f"Override with --set {key}=..."
            )
    if len(contents.offered) > 1:
        other = next(name for name in contents.offered if name != contents.which)
        yield Note(
            f"using the {contents.which} weights; the checkpoint also has {other} "
            f"(--weights {other})"
        )
    elif contents.which is None:
        yield Note(
            "the checkpoint does not store whether these are EMA weights; assuming the published "
            "EMA weights. Use --weights online if they are not"
        )
    for name in repeated(facts["class_names"]):
        yield Warned(f'several classes are named "{name}"; ask for them by index')


def _header(
    request: ImportRequest, contents: Contents, loaded: Loaded, facts: Mapping[str, Any]
) -> Header:
    decay = loaded.config.ema.names[0]
    if named := re.match(r"ema_(0\.\d+)_", request.source.name):
        decay = named[1]
    return Header(
        config=loaded.config.model_dump(mode="json"),
        data=facts,
        step=contents.step or 0,
        ema=ONLINE if contents.which == "online" else decay,
        stage=STAGE,
    )


def _write(
    request: ImportRequest,
    family: Family,
    contents: Contents,
    seen: Seen,
    network: Transformer,
    header: Header,
    trip: Mapping[str, Any],
) -> ImportDone:
    """Weights and report appear together, after the written weights passed a forward pass."""
    ours = dict(network.named_parameters())
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(request.out))
        if request.out.suffix == ".safetensors":
            beside = request.out.with_suffix(f".{IMPORTED}")
            weights, target = temporary, stack.enter_context(atomic_path(beside))
        else:
            temporary.mkdir()
            beside = request.out / IMPORTED
            weights, target = temporary / WEIGHTS, temporary / IMPORTED
        save_weights(weights, ours, header)
        trained = load_trained(weights, None, CPU)
        report = {
            "format": FORMAT,
            "mdt": __version__,
            "family": family.title,
            "source": {
                "file": request.source.name,
                "sha256": sha256_of(request.source),
                "bytes": request.source.stat().st_size,
                "weights": contents.which or "not said",
                "offered": list(contents.offered),
                "beside": sorted(contents.beside),
                "step": contents.step,
                "step_from": contents.step_from,
            },
            "weights_sha256": trained.digest,
            "ema": header.ema,
            "parameters": sum(parameter.numel() for parameter in ours.values()),
            "seen": dict(seen.keys),
            "assumed": {key: _dotted(header.config, key) for key in seen.assumed},
            "sampling": trained.config.sampling.model_dump(mode="json"),
            "data": dict(header.data),
            "round_trip": dict(trip),
            "forward": forward_summary(trained, request.source),
        }
        write_json(target, report)
    return ImportDone(str(request.out), str(beside), header.step, header.ema, report)
