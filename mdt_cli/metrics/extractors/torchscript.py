"""Any network in a file as an extractor: TorchScript (`.pt`) or an exported program (`.pt2`).

The module takes float32 [B,3,H,W] with values 0..255, at the size the images have, and resizes
and normalises by itself; it answers with [B,D], or [B,D,1,1]. The batch size must be free.
Such a file is a program: take it only from people you trust.
"""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.metrics.extractors.extractor import Extractor
from mdt_cli.metrics.extractors.resize import as_they_are

CONVENTION = "a module takes float32 [B,3,H,W] in 0..255 and returns [B,D]"
PROBE = (2, 3, 64, 64)


def from_module(file: Path, device: torch.device, size: tuple[int, int] | None = None) -> Extractor:
    """The module as an extractor named after its file and its bytes; D is found by a probe.

    `size` is (height, width) of the images, for modules that take only one.
    """
    if not file.is_file():
        raise MdtError(f"no such file: {file} (set by --extractor)", CONVENTION)
    sha256 = sha256_of(file)
    module = _load(file, device)

    def features(images_B3HW: Tensor) -> Tensor:
        answer = _call(file, module, images_B3HW)
        if not isinstance(answer, Tensor) or answer.flatten(1).shape[1] != answer.shape[1]:
            given = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise MdtError(f"{file} returns {given} for a batch of images", CONVENTION)
        return answer.flatten(1)

    probe_B3HW = torch.full((*PROBE[:2], *(size or PROBE[2:])), 128.0, device=device)
    with torch.inference_mode():
        found_BD = features(probe_B3HW)
    if len(found_BD) != len(probe_B3HW):
        raise MdtError(
            f"{file} returns {list(found_BD.shape)} for {len(probe_B3HW)} images", CONVENTION
        )
    return Extractor(
        # Numbers of two files are two metrics, even where the files share a name.
        name=f"{file.stem}-{sha256[:8]}",
        resize="none",
        input_size=None,
        dimensions=found_BD.shape[1],
        weights_sha256=sha256,
        prepare=as_they_are,
        features=features,
    )


def _load(file: Path, device: torch.device) -> Callable[[Tensor], object]:
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript; people still hold such files.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            if file.suffix == ".pt2":
                program = torch.export.load(file)
                # An exported module refuses eval(): what it computes was fixed at its export.
                return program.module().to(device)
            return torch.jit.load(str(file), map_location=device).eval()
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MdtError(
            f"{file} is neither TorchScript (.pt) nor an exported program (.pt2): {_line(error)}",
            "write it with torch.jit.save, or with torch.export.save as NAME.pt2",
        ) from error


def _call(file: Path, module: Callable[[Tensor], object], images_B3HW: Tensor) -> object:
    try:
        return module(images_B3HW)
    # AssertionError: an exported program with a fixed batch or image size checks its input so.
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise MdtError(
            f"{file} refuses images of {list(images_B3HW.shape)}: {_line(error)}",
            f"{CONVENTION}; leave the batch size free when exporting",
        ) from error


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    # TorchScript wraps the reason: its last line says what went wrong.
    return (lines[-1] if lines else type(error).__name__).strip()[:200]
