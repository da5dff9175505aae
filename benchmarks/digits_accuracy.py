"""How many generated digits are what they were asked to be, in the eyes of an SVM on real ones.

    python benchmarks/digits_accuracy.py mdt-quickstart/finetune [first seed]

Draws 1,000 images (100 of each class) with seeds that nothing else uses, and classifies them with
an RBF support vector machine fitted on 70 % of the real digits; the other 30 % say how good it is.
"""

import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mdt_cli.services.quickstart import digits  # noqa: E402 - the root of the checkout comes first
from mdt_cli.services.sample.sample import SampleRequest, sample  # noqa: E402

FIRST_SEED, COUNT = 500_000, 1_000


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=np.float64).ravel() / 255


def real() -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(digits()) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = np.stack([pixels(archive.read(name)) for name in names])
    return images, np.array([int(name.split("/")[0]) for name in names])


def generated(run: Path, first: int) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        seeds = f"{first}-{first + COUNT - 1}"
        for _ in sample(SampleRequest(run, Path(folder) / "samples", seeds=seeds, classes="all")):
            pass
        paths = sorted((Path(folder) / "samples").glob("*.png"))
        images = np.stack([pixels(path.read_bytes()) for path in paths])
        labels = np.array([int(path.stem) % 10 for path in paths])
    return images, labels


def main() -> None:
    run = Path(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else FIRST_SEED
    images, labels = real()
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.3, random_state=0, stratify=labels
    )
    svm = SVC(C=10, gamma="scale").fit(train_x, train_y)
    drawn, asked = generated(run, first)
    right = svm.predict(drawn) == asked
    print(f"held-out real digits: {svm.score(test_x, test_y):.2%} of {len(test_y)}")
    print(f"generated digits:     {right.mean():.2%} of {len(asked)} (seeds from {first})")
    per_class = ", ".join(f"{k}: {right[asked == k].mean():.0%}" for k in range(10))
    print(f"per class:            {per_class}")


if __name__ == "__main__":
    main()
