"""What runs, checkpoints and weights files hold; tensors are read one at a time."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mdt_cli.artifacts.checkpoint import WEIGHTS, checkpoints, read_state
from mdt_cli.artifacts.run_folder import LOG, METRICS, config_text
from mdt_cli.artifacts.training_log import accuracy, learning
from mdt_cli.artifacts.weights import read_header
from mdt_cli.config.load import load_config
from mdt_cli.config.write import to_toml
from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.json_reader import JsonLines, read_json_object
from mdt_cli.services.inspection.inspected import Inspected
from mdt_cli.services.model import IMPORTED, TRAINING_ONLY


def weights(path: Path) -> Inspected:
    """One safetensors file, ours or another program's."""
    metadata, facts = _tensors(path)
    facts["sha256"] = sha256_of(path)
    facts["bytes"] = path.stat().st_size
    if "mdt.config" not in metadata:
        return Inspected(path, "safetensors file, not of mdt", {"metadata": metadata, **facts})
    header = read_header(path)
    about = {"stage": header.stage, "step": header.step, "ema": header.ema}
    return Inspected(path, "weights", about | facts | {"data": dict(header.data)}, _toml(path))


def _toml(path: Path) -> str:
    header = read_header(path)
    return to_toml(load_config([], [], header.config, path.name))


def _tensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata, and counts over all tensors."""
    parameters, training_only = 0, 0
    dtypes: Counter[str] = Counter()
    broken: list[str] = []
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names = list(file.keys())
            for name in names:
                tensor = file.get_tensor(name)
                parameters += tensor.numel()
                training_only += tensor.numel() * name.startswith(TRAINING_ONLY)
                dtypes[str(tensor.dtype).removeprefix("torch.")] += 1
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    broken.append(name)
    except (SafetensorError, OSError) as error:
        raise MdtError(f"{path} is not a complete safetensors file: {error}") from error
    return metadata, {
        "tensors": len(names),
        "parameters": parameters,
        "parameters for masked training alone": training_only,
        "dtypes": dict(dtypes),
        "with NaN or infinity": broken,
    }


def checkpoint(path: Path) -> Inspected:
    """A checkpoint folder; damage is reported, not raised."""
    facts: dict[str, Any] = {}
    try:
        state = read_state(path)
    except MdtError as error:
        facts["damage"] = error.message
    else:
        facts |= {"step": state.step, "images": state.images, "run_id": state.run_id}
        facts |= {"bad_steps": state.bad_steps, "damage": None}
    facts["files"] = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
    config = None
    if (path / WEIGHTS).is_file():
        inner = weights(path / WEIGHTS)
        config = inner.config
        facts["weights"] = dict(inner.facts)
    return Inspected(path, "checkpoint", facts, config)


def imported(path: Path) -> Inspected:
    """A folder of `mdt import`: the weights, where they are from and what was checked."""
    report = read_json_object(path / IMPORTED)
    keys = ("family", "source", "seen", "assumed", "round_trip", "forward")
    inner = weights(path / WEIGHTS)
    facts = {key: report.get(key) for key in keys} | {"weights": dict(inner.facts)}
    if inner.facts["sha256"] != report.get("weights_sha256"):
        facts["damage"] = "the weights are not those of import.json"
    return Inspected(path, "imported weights", facts, inner.config)


def run_folder(path: Path) -> Inspected:
    """A run folder: how far it is, and what lies in it."""
    text = config_text(path)
    first = text.partition("\n")[0]
    damaged: dict[str, str] = {}
    newest: dict[str, Any] | None = None
    found = checkpoints(path)
    for folder in found:
        try:
            state = read_state(folder)
        except MdtError as error:
            damaged[folder.name] = error.message
            continue
        newest = {"path": str(folder), "step": state.step, "images": state.images}
        newest["weights"] = sorted(
            file.stem for file in folder.glob("*.safetensors") if file.stem != "optimizer"
        )
        break
    facts = {
        "stage": first.removeprefix("# ") if first.startswith("# ") else None,
        "checkpoints": [folder.name for folder in found],
        "newest whole checkpoint": newest,
        "damaged": damaged,
        "last log record": _last(path / LOG),
        "last held-out losses": _last(path / METRICS),
        "learning speed": learning(path),
        **({"held-out accuracy": gained} if (gained := accuracy(path)) else {}),
        "previews": sum(1 for _ in (path / "samples").glob("*.png")),
        "files": sorted(file.name for file in path.iterdir()),
    }
    return Inspected(path, "run", facts, text)


def _last(path: Path) -> dict[str, Any] | None:
    """The last complete record of a file of JSON lines."""
    return next(_records_backwards(path), None)


def _records_backwards(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for record in reversed(list(JsonLines(path))):
        # JSON has no NaN; what Python wrote as such must not leave here.
        yield {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
