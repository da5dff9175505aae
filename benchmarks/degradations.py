"""CIFAR-10 test images, made worse in known ways, against training images: every metric.

    python benchmarks/degradations.py CIFAR_FOLDER [--count 1000] [--reference 2000] [--weights F]

CIFAR_FOLDER holds train.zip and test.zip with a folder per class. Prints the table as Markdown and
ends with 1 where a metric moves the wrong way. With --weights FILE the extractor is Inception.
"""

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mdt_cli.config.evaluation import facts_of
from mdt_cli.services.evaluate.evaluate import EvaluateRequest, evaluate
from mdt_cli.services.events import EvaluationDone, Progress

METRICS = (
    "fid",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
    "kid",
    "memorisation",
)
Picture = np.ndarray[Any, np.dtype[np.uint8]]
# What has to become worse (or, with a plus, better) than for untouched test images. Precision and
# density do not belong to blur and JPEG: both smooth, features of smooth pictures may lie in the
# middle of the cloud, well inside the balls, and it is recall that falls.
EXPECTED: dict[str, tuple[str, ...]] = {
    "blurred": ("fid", "kid", "is", "recall"),
    "JPEG-40": ("fid", "kid", "is", "recall"),
    "noisy": ("fid", "kid", "is", "precision", "recall", "density", "coverage"),
    "half the classes": ("fid", "kid", "is", "recall", "coverage"),
    "memorised copies": ("memorisation", "+fid", "+precision", "+coverage"),
}


def classes_of(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith((".jpg", ".png")):
                found.setdefault(name.split("/")[-2], []).append(name)
    return found


def pictures(file: Path, classes: list[str], count: int) -> tuple[Picture, Picture]:
    """The first images of each class, as many of each, and their class numbers."""
    listed = classes_of(file)
    each = count // len(classes)
    with zipfile.ZipFile(file) as archive:
        rows, labels = [], []
        for name in classes:
            for member in listed[name][:each]:
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    rows.append(np.asarray(image.convert("RGB")))
                labels.append(sorted(listed).index(name))
    return np.stack(rows), np.array(labels)


def blurred(picture: Picture) -> Picture:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))


def jpeg(picture: Picture) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def noisy(generator: np.random.Generator) -> Callable[[Picture], Picture]:
    def add(picture: Picture) -> Picture:
        shaken = picture + generator.normal(0, 20, picture.shape)
        return np.clip(np.rint(shaken), 0, 255).astype(np.uint8)

    return add


def make(folder: Path, data: Path, count: int, reference: int) -> tuple[list[str], list[Path]]:
    """Write all sets; their names and files, the reference last."""
    classes = sorted(classes_of(data / "test.zip"))
    test, labels = pictures(data / "test.zip", classes, count)
    real, real_labels = pictures(data / "train.zip", classes, reference)
    generator = np.random.default_rng(0)
    copied = generator.permutation(len(real))[: len(test)]
    sets = {
        "test": (test, labels),
        "blurred": (np.stack([blurred(p) for p in test]), labels),
        "JPEG-40": (np.stack([jpeg(p) for p in test]), labels),
        "noisy": (np.stack([noisy(generator)(p) for p in test]), labels),
        "half the classes": pictures(data / "test.zip", classes[: len(classes) // 2], count),
        "memorised copies": (real[copied], real_labels[copied]),
        "train": (real, real_labels),
    }
    files = []
    for name, (rows, numbers) in sets.items():
        files.append(folder / f"{name.replace(' ', '-')}.npz")
        np.savez(files[-1], arr_0=rows, arr_1=numbers)
    return list(sets), files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--page", type=Path, help="keep report.json and report.html here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        names, files = make(Path(made), asked.data, asked.count, asked.reference)
        request = EvaluateRequest(
            samples=files[0],
            others=tuple(files[1:-1]),
            reference=files[-1],
            metrics=("sfid", *METRICS) if asked.weights else METRICS,
            extractor="inception" if asked.weights else "efficientnet-lite0",
            weights=asked.weights,
            out=(asked.page or Path(made)) / "degradations.json",
        )
        for event in evaluate(request):
            if isinstance(event, Progress) and event.done % 500 == 0:
                print(f"{event.done} of {event.total}", file=sys.stderr)
            if isinstance(event, EvaluationDone):
                reports = event.report["reports"]
    return show(names[:-1], reports)


def show(names: list[str], reports: list[dict[str, Any]]) -> int:
    keys = list(reports[0]["metrics"])
    print("| samples | " + " | ".join(f"`{key}`" for key in keys) + " |")
    print("|---" * (len(keys) + 1) + "|")
    for name, report in zip(names, reports, strict=True):
        cells = [told(report["metrics"][key]) for key in keys]
        print(f"| {name} | " + " | ".join(cells) + " |")
    wrong = []
    for name, report in zip(names[1:], reports[1:], strict=True):
        for asked in EXPECTED[name]:
            metric = asked.removeprefix("+")
            key = next(
                k for k in keys if k.startswith("fd_" if metric == "fid" else metric) or k == metric
            )
            change = report["metrics"][key]["value"] - reports[0]["metrics"][key]["value"]
            worse = change > 0 if facts_of(metric).direction == "lower" else change < 0
            if change == 0 or worse == asked.startswith("+"):
                wrong.append(f"{name}: {key} moved by {change:+.4g}")
    print("\n" + ("\n".join(wrong) or "Every metric moved the way it should."))
    return int(bool(wrong))


def told(metric: dict[str, Any]) -> str:
    error = metric.get("standard_error")
    return f"{metric['value']:.4g}" + (f" ± {error:.2g}" if error else "")


if __name__ == "__main__":
    sys.exit(main())
