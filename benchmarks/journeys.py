"""How far five values travel through the code, by tracing the calls of real commands.

    python benchmarks/journeys.py [--checkout FOLDER ...] [--show JOURNEY]

A journey is the functions of `mdt_cli` that hold the value of interest in an argument or in what
they return, in the order of their calls, while one command runs on a small input:

- files: how many files these functions stand in;
- climbs: calls into a layer above the caller's (callbacks), each pair of files counted once;
- returns: calls into a room (folder) that was left before, each pair of files counted once.

Every checkout is traced by the same rules in a process of its own. What stands between two frames
of `mdt_cli` (torch, the standard library) is skipped: the caller is the nearest frame of `mdt_cli`.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

Predicate = Callable[[str, Any], bool]
# From the top: a call from a later entry into an earlier one is a climb.
LAYERS = (
    ("cli/",),
    ("services/quickstart",),
    ("services/",),
    ("artifacts/", "metrics/"),
    ("core/", "config/", "images/"),
    ("files", "untrusted"),
    ("errors",),
)
RATIO_NAMES = {"ratio", "mask_ratio", "keep", "num_kept"}


@dataclasses.dataclass(frozen=True)
class Journey:
    """Commands to run, which values count, where the trip ends and what is another trip."""

    name: str
    commands: Sequence[Sequence[str]]
    holds: Predicate
    until: str = ""
    without: tuple[str, ...] = ()


def contains(value: Any, wanted: Callable[[Any], bool], depth: int = 3) -> bool:
    """Whether a value, or what lies in its fields and items, is wanted."""
    if wanted(value):
        return True
    if depth == 0:
        return False
    if isinstance(value, Mapping):
        inner: Sequence[Any] = list(value.values())[:8]
    elif isinstance(value, list | tuple):
        inner = value[:8]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        return False
    return any(contains(one, wanted, depth - 1) for one in inner)


def is_pixels(value: Any) -> bool:
    """Encoded or decoded images, latents, features."""
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) > 64
    return type(value).__name__ in ("ndarray", "Tensor", "Image", "PngImageFile", "PixelBatch")


def of_pixels(name: str, value: Any) -> bool:
    return contains(value, is_pixels)


def of_seed(name: str, value: Any) -> bool:
    return "seed" in name or contains(value, is_pixels)


def of_report(name: str, value: Any) -> bool:
    """Images and features, and afterwards the numbers of the report."""
    if isinstance(value, Mapping) and ("metrics" in value or "fd" in value or "value" in value):
        return True
    return contains(value, is_pixels) or type(value).__name__ in ("float64", "Estimate")


def of_subset(name: str, value: Any) -> bool:
    return contains(value, lambda one: type(one).__name__ == "TokenSubset")


def of_ratio(name: str, value: Any) -> bool:
    def is_ratio(one: Any) -> bool:
        kind = type(one).__name__
        masking = isinstance(one, Mapping) and "masking" in one
        return masking or kind in ("RunConfig", "MaskingConfig", "TokenSubset") or "Ratio" in kind

    return name in RATIO_NAMES or contains(value, is_ratio, 2)


def journeys(work: Path) -> list[Journey]:
    """The five, with their files under `work`; each needs what those before it wrote."""
    cache, run = str(work / "cache"), str(work / "run")
    tiny = ["-p", "size/tiny", "--set", "training.steps=2", "--set", "training.batch_size=4"]
    tiny += ["--set", "validation.every=0", "--set", "preview.every=0"]
    encode = ["encode-latents", str(work / "images.zip"), cache, "--size", "16"]
    encode += ["--codec", "pixels", "--workers", "0", "--json"]
    train = ["pretrain", cache, run, "-p", "maskdit", *tiny, "--device", "cpu", "--json"]
    sample = ["sample", run, str(work / "out"), "--seeds", "0-3", "--steps", "2", "--json"]
    sample += ["--device", "cpu"]
    evaluate = ["evaluate", str(work / "out"), str(work / "images.zip"), "--device", "cpu"]
    evaluate += [
        "--out",
        str(work / "report"),
        "--metrics",
        "fid",
        "--extractor",
        "efficientnet-lite0",
    ]
    evaluate += ["--json"]
    # The network starts from tables of its own, which are no images.
    network = ("core/model/", "core/optim/", "core/ema", "core/adan")
    return [
        Journey("image, zip to shard", [encode], of_pixels),
        Journey("shard to batch", [train], of_pixels, until="Transformer.forward", without=network),
        Journey("token subset, MaskDiT step", [[*train, "--set", "training.seed=1"]], of_subset),
        Journey("masking.ratio to mask", [train], of_ratio, until="Transformer._blocks"),
        Journey("seed to PNG", [sample], of_seed, without=("core/model/",)),
        Journey("image to report", [evaluate], of_report),
    ]


class Tracer:
    """Notes calls between files of the package while it is installed as the profile function."""

    def __init__(self, package: Path, journey: Journey) -> None:
        self._package, self._journey = str(package) + os.sep, journey
        self.files: list[str] = []
        self.climbs: list[tuple[str, str]] = []
        self.returns: list[tuple[str, str]] = []
        self._pairs: set[tuple[str, str]] = set()
        self._rooms: list[str] = []
        self._over = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._over or event not in ("call", "return"):
            return
        file = self._file(frame)
        if file is None or file.startswith(self._journey.without):
            return
        code = frame.f_code
        if self._journey.until and code.co_qualname == self._journey.until:
            self._over = True
            return
        if event == "call":
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            held = ((name, frame.f_locals.get(name)) for name in names)
            if any(self._journey.holds(name, value) for name, value in held):
                self._note(frame, file)
        elif self._journey.holds(code.co_name, argument):
            self._note(frame, file)

    def _file(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        return name[len(self._package) :] if name.startswith(self._package) else None

    def _note(self, frame: FrameType, file: str) -> None:
        if file not in self.files:
            self.files.append(file)
        caller, before = None, frame.f_back
        while before is not None and (caller := self._file(before)) is None:
            before = before.f_back
        if caller is None or caller == file or (caller, file) in self._pairs:
            return
        self._pairs.add((caller, file))
        if layer(file) < layer(caller):
            self.climbs.append((caller, file))
        here, there = room(caller), room(file)
        if here != there:
            if there in self._rooms:
                self.returns.append((caller, file))
            for one in (here, there):
                if one not in self._rooms:
                    self._rooms.append(one)


def layer(file: str) -> int:
    """The index of the file's layer, 0 at the top."""
    return next((i for i, heads in enumerate(LAYERS) if file.startswith(heads)), len(LAYERS))


def room(file: str) -> str:
    """The folder of a file."""
    return str(Path(file).parent)


def trace(work: Path) -> dict[str, dict[str, Any]]:
    """The journeys of the `mdt_cli` that this process imports."""
    import mdt_cli
    from mdt_cli.cli.app import run

    package = Path(mdt_cli.__file__).parent
    make_images(work / "images.zip")
    found: dict[str, dict[str, Any]] = {}
    for number, journey in enumerate(journeys(work)):
        tracer = Tracer(package, journey)
        for command in journey.commands:
            words = [*command]
            if words[0] == "pretrain":
                words[2] = words[2] + ("" if journey.name == "shard to batch" else f"-{number}")
            with contextlib.redirect_stdout(io.StringIO()):
                sys.setprofile(tracer)
                try:
                    code = run(words)
                finally:
                    sys.setprofile(None)
            if code:
                raise SystemExit(f"mdt {' '.join(words)} ended with {code}")
        found[journey.name] = {
            "files": tracer.files,
            "climbs": tracer.climbs,
            "returns": tracer.returns,
        }
    return found


def make_images(path: Path) -> None:
    """Sixteen noisy PNGs of two classes in a zip."""
    import zipfile

    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(16):
            file = io.BytesIO()
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            archive.writestr(f"{'ab'[index % 2]}/{index:02d}.png", file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, action="append", help="default: this one")
    parser.add_argument("--show", help="print the files, climbs and returns of this journey")
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trace:
        with tempfile.TemporaryDirectory() as work:
            print(json.dumps(trace(Path(work))))
        return
    checkouts = arguments.checkout or [here]
    results = []
    for checkout in checkouts:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--trace"]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.show:
        for checkout, result in zip(checkouts, results, strict=True):
            print(checkout)
            for kind, entries in result[arguments.show].items():
                print(f"  {kind}")
                for entry in entries:
                    print("   ", entry if isinstance(entry, str) else " -> ".join(entry))
        return
    columns = ("files", "climbs", "returns")
    print("| journey | " + " | ".join(f"{c} {i}" for i in range(len(results)) for c in columns))
    print("|---" * (1 + 3 * len(results)) + "|")
    for name in results[0]:
        counts = [str(len(result[name][column])) for result in results for column in columns]
        print(f"| {name} | {' | '.join(counts)} |")


if __name__ == "__main__":
    main()
