"""What a key or a value that is none may stand for, and what to type instead."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter, ValidationError

from mdt_cli.config.base import flat
from mdt_cli.config.keys import annotation_of, dotted, kind_of, known_keys, tables, variants
from mdt_cli.config.run import RunConfig
from mdt_cli.text import nearest
from mdt_cli.toml_reader import parse_toml

# Where several tables have a key of one name, the table that is meant first.
FIRST_MEANT = ("training", "optimizer", "lr_schedule", "ema", "model", "masking", "sampling")
# Names of other programs, and ours.
ALIASES = {
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "wd": "optimizer.weight_decay",
    "warmup_steps": "lr_schedule.warmup",
    "scheduler": "lr_schedule.kind",
    "max_steps": "training.steps",
    "num_steps": "training.steps",
    "iterations": "training.steps",
    "max_train_steps": "training.steps",
    "global_batch_size": "training.batch_size",
    "batch": "training.batch_size",
    "bs": "training.batch_size",
    "mixed_precision": "training.precision",
    "grad_clip": "training.clip_norm",
    "max_grad_norm": "training.clip_norm",
    "width": "model.hidden_size",
    "dim": "model.hidden_size",
    "embed_dim": "model.hidden_size",
    "hidden_dim": "model.hidden_size",
    "layers": "model.depth",
    "num_layers": "model.depth",
    "n_layers": "model.depth",
    "heads": "model.num_heads",
    "n_heads": "model.num_heads",
    "mask_ratio": "masking.ratio",
    "ema_decay": "ema.decays",
    "ema_rate": "ema.decays",
    "cfg": "sampling.guidance.scale",
    "cfg_scale": "sampling.guidance.scale",
    "guidance_scale": "sampling.guidance.scale",
    "num_sampling_steps": "sampling.steps",
    "class_dropout_prob": "data.class_dropout",
    "save_every": "checkpoint.every",
    "ckpt_every": "checkpoint.every",
    "log_every": "log.every",
}
# Names of other programs for what is no key here.
NO_KEY = {
    "epochs": "training.steps counts optimizer steps: epochs x images / training.batch_size",
    "image_size": "it is read from the latent cache: mdt encode-latents --size chooses it",
    "input_size": "it is read from the latent cache: mdt encode-latents --size chooses it",
    "num_classes": "it is read from the latent cache",
    "in_channels": "it is read from the latent cache",
    "device": "it is an option: --device",
}
# Values of other programs, and what they may be called here.
VALUES = {
    "fp32": ("float32", "no"),
    "float32": ("no",),
    "fp16": ("bf16",),
    "float16": ("fp16", "bf16"),
    "half": ("fp16", "bf16"),
    "bfloat16": ("bf16",),
    "adam": ("adamw",),
    "cfg": ("constant",),
    "eps": ("epsilon",),
    "rectified_flow": ("flow",),
    "dpm": ("dpm++",),
    "dpmsolver++": ("dpm++",),
    "dpm_solver": ("dpm++3s",),
    "dpm-solver": ("dpm++3s",),
    "dpm_fast": ("dpm++3s",),
    "dpm++2m": ("dpm++",),
}
# Tables of which one value means the first key.
FIRST_KEY = ("ema", "training", "preview", "checkpoint", "log", "validation", "evaluation")


def leaf_keys(key: str, value: object) -> list[str]:
    """The keys inside a table that was given for `key`, or the key itself."""
    below = flat(value) if isinstance(value, Mapping) else {}
    return [f"{key}.{name}" for name in below] or [key]


def nearest_value(given: str, names: Sequence[str]) -> str | None:
    """The one of `names` that a word means which is none of them, other programs' words too."""
    others = (name for name in VALUES.get(given.lower(), ()) if name in names)
    return next(others, None) or nearest(given, names)


def chosen_kind(table: str, tree: Mapping[str, Any]) -> str:
    """The kind that a table has in this configuration."""
    inner: Any = tree
    default: Any = RunConfig()
    for part in table.split("."):
        inner = inner.get(part, {}) if isinstance(inner, Mapping) else {}
        default = getattr(default, part, None)
    return str(inner.get("kind", getattr(default, "kind", "")))


def kinds_with(key: str, tree: Mapping[str, Any]) -> list[str]:
    """The other kinds of a table that have this key."""
    table, _, last = key.rpartition(".")
    found = variants(annotation_of(table)) if table else []
    kinds = [kind_of(one) for one in found if last in one.model_fields]
    return [kind for kind in kinds if kind != chosen_kind(table, tree)]


def meant_keys(key: str, tree: Mapping[str, Any]) -> list[str]:
    """The valid keys that a key which is none may stand for, the likeliest first."""
    known, parts = known_keys(tree), key.split(".")
    table, _, last = key.rpartition(".")
    if last in NO_KEY:
        return []
    if any(part.isdigit() for part in parts):
        names = [name for one in tables(annotation_of(table)) for name in one.model_fields]
        near = nearest(last, names)
        return [f"{table}.{near}"] if near else []
    if last in ALIASES and (not table or table not in known):
        return [ALIASES[last]]
    walked = ""
    for part in parts:
        beside = [name for name in known if name.rpartition(".")[0] == walked]
        near = nearest(part, (name.rpartition(".")[2] for name in beside))
        if near is None:
            break
        walked = f"{walked}.{near}" if walked else near
    else:
        return [walked]
    if last in ALIASES:
        return [ALIASES[last]]
    same = [name for name in known if name.rpartition(".")[2] == last.lower()]
    inside = [name for name in same if table in known and name.startswith(f"{table}.")]
    if same:
        return sorted(inside or same, key=_preference)
    near_last = nearest(last, sorted((k.rpartition(".")[2] for k in known), key=_preference))
    same = [name for name in known if name.rpartition(".")[2] == near_last and "." in name]
    return sorted(same, key=_preference)


def _preference(key: str) -> tuple[int, int, str]:
    table = key.partition(".")[0]
    place = FIRST_MEANT.index(table) if table in FIRST_MEANT else len(FIRST_MEANT)
    return place, key.count("."), key


def replacements(
    error: ValidationError, tree: Mapping[str, Any], assignments: Sequence[str]
) -> dict[str, list[str]]:
    """What to write instead of the assignments (KEY=VALUE) that a fault concerns."""
    found: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        key, value = dotted(fault["loc"]), fault["input"]
        for text in assignments:
            name, _, written = (part.strip() for part in text.partition("="))
            if fault["type"] == "extra_forbidden" and name in leaf_keys(key, value):
                instead = _instead(name, written, tree)
            elif fault["type"] == "union_tag_invalid" and name in (key, f"{key}.kind"):
                kinds = [kind_of(table) for table in variants(annotation_of(key))]
                near = nearest_value(str(fault["ctx"]["tag"]), kinds)
                instead = [f"{key}.kind={near}"] if near else []
            elif name == key and tables(annotation_of(key)):
                instead = _inside(key, written)
            elif name == key and fault["type"].startswith(("tuple", "list")):
                instead = [new] if (new := _fitting(key, written)) else []
            elif name == key and fault["type"] == "literal_error":
                names = str(fault["ctx"]["expected"]).split("'")[1::2]
                near = nearest_value(str(value), names)
                instead = [f"{key}={near}"] if near else []
            else:
                continue
            if instead:
                found[text] = instead
    return found


def _instead(key: str, written: str, tree: Mapping[str, Any]) -> list[str]:
    kinds = kinds_with(key, tree)
    if kinds:
        return [f"{key.rpartition('.')[0]}.kind={kinds[0]}", f"{key}={written}"]
    for meant in meant_keys(key, tree):
        if tables(annotation_of(meant)):
            return _inside(meant, written)
        return [text] if (text := _fitting(meant, written)) else []
    return []


def _inside(key: str, written: str) -> list[str]:
    """Assignments inside a table for a value that was given for the whole of it."""
    found = tables(annotation_of(key))
    chosen = variants(annotation_of(key))
    kinds = [kind_of(table) for table in chosen] or list(get_args(annotation_of(f"{key}.kind")))
    near = nearest_value(written, kinds)
    if near:
        return [f"{key}.kind={near}"]
    if not chosen and key not in FIRST_KEY:
        return []
    for table in found:
        names = [name for name in table.model_fields if name != "kind"]
        text = _fitting(f"{key}.{names[0]}", written) if names else None
        if text is not None:
            return ([f"{key}.kind={kind_of(table)}"] if chosen else []) + [text]
    return []


def _fitting(key: str, written: str) -> str | None:
    """KEY=VALUE, as a list of one entry where only that fits; None where neither does."""
    try:
        value = parse_toml(f"value = {written}")["value"]
    except ValueError:
        value = written
    parent, _, last = key.rpartition(".")
    holders = tables(annotation_of(parent)) if parent else [RunConfig]
    field = next((t.model_fields[last] for t in holders if last in t.model_fields), None)
    if field is None:
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(_bounded(field.annotation, field.metadata))
    for candidate, text in ((value, written), ([value], f"[{written}]")):
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return f"{key}={text}"
    return None


def _bounded(annotation: Any, metadata: Sequence[Any]) -> Any:
    for one in metadata:
        annotation = Annotated[annotation, one]
    return annotation


def typed(assignments: Sequence[str]) -> str:
    """`--set` options as a shell takes them."""
    return " ".join(f"--set {shlex.quote(text)}" for text in assignments)
