"""Make mdt_cli/assets/digits.zip from scikit-learn's copy of the UCI digits, byte for byte."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ASSETS = Path(__file__).resolve().parents[1] / "mdt_cli" / "assets"


def main() -> None:
    digits = load_digits()
    members = {}
    for index, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        # 0..16 counts the dark quarters of a 4x4 cell; 255 is full ink.
        grey = np.floor(values * 255 / 16 + 0.5).astype(np.uint8)
        png = io.BytesIO()
        Image.fromarray(grey).save(png, "PNG", optimize=True)
        members[f"{label}/{index:04d}.png"] = png.getvalue()
    ASSETS.mkdir(exist_ok=True)
    with zipfile.ZipFile(ASSETS / "digits.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), members[name])
    print(f"{len(members)} images, {(ASSETS / 'digits.zip').stat().st_size} bytes")


if __name__ == "__main__":
    main()
