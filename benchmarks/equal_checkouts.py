"""Are two checkouts equal to the bit? Both run the same commands on this machine; the files of both
are compared.

    python benchmarks/equal_checkouts.py OLD NEW [--steps 40] [--threads 1] [--recipes mdt,dit]

Compared are the digests of a latent cache, of every tensor file of each recipe's last checkpoint at
size/tiny, the losses logged on the way, sampled images and the numbers of a report. Left out, since
two runs of one checkout differ in them: speeds, times, versions, paths and the name of the run.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = (
    *("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "lmd lmd-classify", "uvit"),
    *("tread", "tread-mean", "drop", "deferred"),
)
SETTINGS = (
    *("model.patch_size=2", "training.batch_size=16", "optimizer.lr=1e-3"),
    *("lr_schedule.warmup=0", "log.every=1", "validation.every=20", "preview.every=0"),
    "checkpoint.every=1000",
)
# Recipes that do not generate images from noise.
NO_SAMPLES = ("lmd", "lmd lmd-classify")
VOLATILE = ("images_per_second", "seconds")


class Checkout:
    """One checkout, its folder of results, and what its commands gave: fingerprint by name."""

    def __init__(self, path: Path, work: Path, threads: int) -> None:
        self.path, self.work = path.resolve(), work
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.path),
            "OMP_NUM_THREADS": str(threads),
        }
        self.found: dict[str, str] = {}
        work.mkdir(parents=True)

    def mdt(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "mdt_cli", *words],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{self.path}: mdt {' '.join(words)}\n{done.stderr}")

    def encode(self) -> None:
        digits = self.path / "mdt_cli" / "assets" / "digits.zip"
        self.mdt("encode-latents", str(digits), "cache", "--size", "8", "--workers", "1")
        manifest = json.loads((self.work / "cache" / "manifest.json").read_text("utf-8"))
        self.found["cache"] = digest([shard["sha256"] for shard in manifest["shards"]])

    def train(self, recipe: str, steps: int) -> None:
        run = Path("runs") / recipe.replace(" ", "-")
        words = ["pretrain", "cache", str(run)]
        for name in (*recipe.split(), "size/tiny"):
            words += ["-p", name]
        for text in (*SETTINGS, f"training.steps={steps}"):
            words += ["--set", text]
        self.mdt(*words)
        checkpoint = self.work / run / "checkpoints" / f"step-{steps:07d}"
        self.found[f"{recipe}: tensors"] = digest(
            [
                hashlib.sha256(tensors_of(file)).hexdigest()
                for file in sorted(checkpoint.glob("*.safetensors"))
            ]
        )
        for log in ("log.jsonl", "metrics.jsonl"):
            records = [
                json.loads(line) for line in (self.work / run / log).read_text().split("\n")[:-1]
            ]
            self.found[f"{recipe}: {log}"] = digest(
                [{k: v for k, v in record.items() if k not in VOLATILE} for record in records]
            )

    def sample(self, recipe: str) -> None:
        run, out = Path("runs") / recipe, Path("samples") / recipe
        self.mdt(
            "sample", str(run), str(out), "--seeds", "0-7", "--steps", "5", "--batch-size", "8"
        )
        images = sorted((self.work / out).glob("0*.png"))
        self.found[f"{recipe}: samples"] = digest([pixels_of(image) for image in images])

    def evaluate(self, recipe: str) -> None:
        self.mdt(
            *("evaluate", f"samples/{recipe}", "cache", "--extractor", "efficientnet-lite0"),
            *("--metrics", "fid,kid", "--out", "report.json"),
        )
        report = json.loads((self.work / "report.json").read_text("utf-8"))
        self.found["report: metrics"] = digest(
            {name: metric["value"] for name, metric in report["metrics"].items()}
        )


def tensors_of(file: Path) -> bytes:
    """The tensors of a safetensors file and their index; the configuration beside them is left."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return json.dumps(header, sort_keys=True).encode() + data[8 + length :]


def pixels_of(image: Path) -> str:
    from PIL import Image

    with Image.open(image) as opened:
        return hashlib.sha256(opened.convert("RGB").tobytes()).hexdigest()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    asked = parser.parse_args()
    recipes = asked.recipes.split(",")
    with tempfile.TemporaryDirectory() as folder:
        both = [
            Checkout(path, Path(folder) / name, asked.threads)
            for path, name in ((asked.old, "old"), (asked.new, "new"))
        ]
        for checkout in both:
            checkout.encode()
            for recipe in recipes:
                checkout.train(recipe, asked.steps)
                if recipe not in NO_SAMPLES:
                    checkout.sample(recipe)
                print(f"{checkout.path}: {recipe}", file=sys.stderr)
            generating = [recipe for recipe in recipes if recipe not in NO_SAMPLES]
            if generating:
                checkout.evaluate(generating[0])
        old, new = (checkout.found for checkout in both)
    print("| | old | new | equal |\n|---|---|---|---|")
    for name in old:
        print(
            f"| {name} | {old[name]} | {new[name]} | {'yes' if old[name] == new[name] else 'NO'} |"
        )
    sys.exit(old != new)


if __name__ == "__main__":
    main()
