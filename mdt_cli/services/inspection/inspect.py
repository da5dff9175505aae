"""What any artifact is, from its own files. Loads torch only where tensors are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from mdt_cli.artifacts.latent_cache.format import FORMAT
from mdt_cli.artifacts.latent_cache.schema import ManifestFields, PlanFields
from mdt_cli.artifacts.program import ABOUT, ONNX
from mdt_cli.artifacts.report_schema import ComparisonFields, ReportFields
from mdt_cli.errors import MdtError
from mdt_cli.images.reading import EVERYTHING, Reading
from mdt_cli.json_reader import read_json_object
from mdt_cli.schema import check_schema
from mdt_cli.services.inspection.inspected import Inspected, unknown
from mdt_cli.toml_reader import read_toml

Fields = TypeVar("Fields")


def inspect(path: Path, reading: Reading = EVERYTHING) -> Inspected:
    """What `path` is and holds; `reading` is for a set of images.

    Raises MdtError where it is missing, damaged or not recognised.
    """
    if not path.exists():
        raise MdtError(f"no such file or folder: {path}")
    found = _folder(path, reading) if path.is_dir() else _file(path, reading)
    if reading.options and found.kind != "images":
        raise MdtError(
            f"{' and '.join(reading.options)} cannot be used for {path}, which is no set of images "
            f"({found.kind})",
            f"leave out {' and '.join(reading.options)}",
        )
    return found


def _folder(path: Path, reading: Reading) -> Inspected:
    if (path / "model_index.json").is_file():
        return _exported(path)
    manifest = path / "manifest.json"
    if manifest.is_file() and (found := read_json_object(manifest)).get("format") == FORMAT:
        return _cache(path, found)
    if (path / "plan.json").is_file():
        return _begun_cache(path, read_json_object(path / "plan.json"))
    if (path / "state.json").is_file():
        from mdt_cli.services.inspection.weights import checkpoint

        return checkpoint(path)
    if (path / "import.json").is_file():
        from mdt_cli.services.inspection.weights import imported

        return imported(path)
    if (path / "config.toml").is_file():
        from mdt_cli.services.inspection.weights import run_folder

        return run_folder(path)
    if (path / ABOUT).is_file() and (path / ONNX).is_file():
        from mdt_cli.services.inspection.program import onnx_program

        return onnx_program(path)
    if (path / "samples.json").is_file():
        return _samples(path, read_json_object(path / "samples.json"))
    if (path / "config.json").is_file() and "_class_name" in read_json_object(path / "config.json"):
        return _component(path)
    from mdt_cli.services.inspection.images import images

    return images(path, reading)


def _file(path: Path, reading: Reading) -> Inspected:
    match path.suffix.lower():
        case ".safetensors":
            from mdt_cli.services.inspection.weights import weights

            return weights(path)
        case ".pt2":
            from mdt_cli.services.inspection.program import torch_program

            return torch_program(path)
        case ".onnx" if (path.parent / ABOUT).is_file() and path.name == ONNX:
            return _folder(path.parent, reading)
        case ".npz":
            return _npz(path)
        case ".json":
            return _json(path)
        case ".toml":
            return _toml(path)
        case ".zip" | ".tar" | ".parquet" | ".npy":
            from mdt_cli.services.inspection.images import images

            return images(path, reading)
        case _:
            from mdt_cli.services.inspection.images import any_images

            return any_images(path, reading)


def _checked(shape: type[Fields], path: Path, value: object) -> Fields:
    try:
        return check_schema(shape, value)
    except ValueError as error:
        raise MdtError(f"{path} is damaged: {error}") from error


def _cache(path: Path, found: object) -> Inspected:
    manifest = _checked(ManifestFields, path / "manifest.json", found)
    damaged = [
        entry["file"]
        for entry in manifest["shards"]
        if entry["file"] is not None and not _has_size(path / entry["file"], entry["bytes"])
    ]
    keys = ("version", "count", "image_size", "latent_shape", "dtype", "flip", "stochastic", "crop")
    return Inspected(
        path,
        "latent cache",
        {
            **{key: manifest.get(key) for key in keys},
            "codec": manifest["codec"],
            "classes": {entry["name"]: entry["count"] for entry in manifest["classes"]},
            "latent_mean": manifest["latent_mean"],
            "latent_std": manifest["latent_std"],
            "source": manifest["source"],
            "modes": manifest["modes"],
            "skipped": manifest["skipped"],
            "shards": len(manifest["shards"]),
            "bytes": sum(entry["bytes"] for entry in manifest["shards"]),
            "missing or cut short": damaged,
            "versions": manifest["versions"],
        },
    )


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _begun_cache(path: Path, found: object) -> Inspected:
    plan = _checked(PlanFields, path / "plan.json", found)
    items, rows = plan["source"]["items"], plan["shard_rows"]
    return Inspected(
        path,
        "latent cache, unfinished",
        {
            **{key: plan.get(key) for key in ("image_size", "latent_shape", "dtype", "codec")},
            "source": plan["source"],
            "shards done": len(list(path.glob("shard-*.json"))),
            "shards": -(-items // rows),
            "to finish": "run the same mdt encode-latents again",
        },
    )


def _samples(path: Path, samples: Mapping[str, Any]) -> Inspected:
    images = sum(1 for _ in path.glob("[0-9]*.png"))
    facts = {**samples, "png files": images, "npz files": [p.name for p in path.glob("*.npz")]}
    if (path / "report.json").is_file():
        facts["scores"] = _scores(_report(path / "report.json"))
    return Inspected(path, "sample folder", facts)


def _report(path: Path) -> ReportFields:
    return _checked(ReportFields, path, read_json_object(path))


def _scores(report: ReportFields) -> dict[str, Any]:
    return {name: metric["value"] for name, metric in report["metrics"].items()}


def _exported(path: Path) -> Inspected:
    index = read_json_object(path / "model_index.json")
    parts = {
        name: f"{entry[0]}.{entry[1]}"
        for name, entry in index.items()
        if isinstance(entry, list)
        and len(entry) == 2
        and not name.startswith("_")
        and entry[0] is not None
    }
    name, labels = index.get("_class_name"), index.get("id2label")
    facts: dict[str, Any] = {
        "pipeline": name[-1] if isinstance(name, list) and name else name,
        "parts": parts,
        **{key: index[key] for key in ("objective", "sampling", "codec") if key in index},
        "classes": list(labels.values()) if isinstance(labels, dict) else [],
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }
    return Inspected(path, "diffusers folder", facts)


def _component(path: Path) -> Inspected:
    config = read_json_object(path / "config.json")
    return Inspected(path, f"diffusers component, {config['_class_name']}", config)


def _json(path: Path) -> Inspected:
    found = read_json_object(path)
    if {"metrics", "comparability"} <= found.keys():
        report = _report(path)
        facts = {
            "scores": _scores(report),
            "comparability": report["comparability"]["verdict"],
            "samples": report.get("samples", {}).get("path"),
            "reference": report.get("reference", {}).get("path"),
            "extractor": report.get("extractor", {}).get("id"),
        }
        return Inspected(path, "report", facts)
    if {"reports", "comparison"} <= found.keys():
        reports = _checked(ComparisonFields, path, found)["reports"]
        told = {r.get("samples", {}).get("path", str(k)): _scores(r) for k, r in enumerate(reports)}
        reference = next((r.get("reference", {}).get("path") for r in reports), None)
        facts = {"scores": told, "reference": reference}
        return Inspected(path, "comparison of reports", facts)
    if {"family", "round_trip"} <= found.keys():
        return Inspected(path, "import report", found)
    for name in (
        "manifest.json",
        "plan.json",
        "state.json",
        "samples.json",
        "model_index.json",
        ABOUT,
    ):
        if path.name == name:
            return _folder(path.parent, EVERYTHING)
    raise unknown(path)


def _toml(path: Path) -> Inspected:
    try:
        tables, text = read_toml(path)
    except ValueError as error:
        raise MdtError(f"{path} cannot be read: {error}") from error
    return Inspected(path, "configuration", tables, text)


def _npz(path: Path) -> Inspected:
    from mdt_cli.images.npz import RowFile, keys

    arrays: dict[str, Any] = {}
    for name in sorted(keys(path)):
        try:
            with RowFile(path, name) as rows:
                arrays[name] = {"shape": list(rows.shape), "dtype": str(rows.dtype)}
        except MdtError as error:
            arrays[name] = {"shape": [], "fault": error.message}
    has_images = "arr_0" in arrays and len(arrays["arr_0"]["shape"]) == 4
    kinds = [
        ("reference images and statistics", has_images and "mu" in arrays),
        ("sample array", has_images),
        ("reference statistics", {"mu", "sigma"} <= arrays.keys()),
    ]
    kind = next((kind for kind, fits in kinds if fits), "npz file")
    beside = path.parent / "samples.json"
    facts = {"arrays": arrays}
    if kind == "sample array" and beside.is_file():
        facts["samples.json"] = read_json_object(beside)
    return Inspected(path, kind, facts)
