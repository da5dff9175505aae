"""Streaming mean and covariance in float64, and the files that keep them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path, sha256_of
from mdt_cli.images import npz

# Rows are folded in by blocks of this many, whatever the batches were, so that the batch size
# does not even change the rounding.
BLOCK = 256
FORMAT = 1
# clean-fid names its files DATASET_MODE_SPLIT_RESOLUTION.npz; those of its CLIP have one part more.
OF_CLEAN_FID = re.compile(
    r"[^/]+_(clean|legacy_tensorflow|legacy_pytorch)_[a-z0-9]+_(\d+|na)\.npz", re.IGNORECASE
)
# No file of these tools records its resize mode.
RULES_OF_OTHERS = (
    "pass --resize legacy_tensorflow for statistics of EDM, EDM2, MaskDiT and others from ADM's "
    "evaluator, --resize legacy_pytorch for pytorch-fid's, or --resize clean for a renamed file of "
    "clean-fid's"
)


@dataclass(frozen=True)
class Statistics:
    """A Gaussian in feature space and, where the file records it, how it was computed."""

    mu_D: Tensor  # float64
    sigma_DD: Tensor  # float64
    digest: str
    extractor: str | None = None
    resize: str | None = None
    count: int | None = None
    size: tuple[int, int] | None = None  # (height, width) of the images behind it
    adm: bool = False  # the arrays are named as in the files of Dhariwal & Nichol 2021
    named: bool = False  # extractor and resize mode are taken from a file name of clean-fid


class Moments:
    """Mean and covariance of rows that arrive in any batches; memory is one D x D matrix."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self._mean_D = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter_DD = torch.zeros(dimensions, dimensions, dtype=torch.float64)
        self._waiting: list[Tensor] = []
        self._num_waiting = 0

    def add(self, rows_ND: Tensor) -> None:
        """Take in rows, in float64."""
        self._waiting.append(rows_ND.to("cpu", torch.float64))
        self._num_waiting += len(rows_ND)
        if self._num_waiting >= BLOCK:
            *blocks, rest = torch.cat(self._waiting).tensor_split(
                tuple(range(BLOCK, self._num_waiting + 1, BLOCK))
            )
            for block in blocks:
                self._merge(block)
            self._waiting, self._num_waiting = [rest], len(rest)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D] of everything added."""
        self._flush()
        return self._mean_D.clone(), self._scatter_DD / (self.count - 1)

    def merge(self, other: "Moments") -> None:
        """Take in everything `other` has seen, as one block."""
        self._flush()
        other._flush()
        if other.count:
            self._fold(other.count, other._mean_D, other._scatter_DD)

    def _flush(self) -> None:
        if self._num_waiting:
            self._merge(torch.cat(self._waiting))
            self._waiting, self._num_waiting = [], 0

    def _merge(self, block_ND: Tensor) -> None:
        mean_D = block_ND.mean(0)
        centred_ND = block_ND - mean_D
        self._fold(len(block_ND), mean_D, centred_ND.T @ centred_ND)

    def _fold(self, fresh: int, mean_D: Tensor, scatter_DD: Tensor) -> None:
        """Fold one block in (Chan, Golub & LeVeque 1979, eq. 2.1, for vectors)."""
        total = self.count + fresh
        shift_D = mean_D - self._mean_D
        self._scatter_DD += scatter_DD
        self._scatter_DD += torch.outer(shift_D, shift_D) * (self.count * fresh / total)
        self._mean_D += shift_D * (fresh / total)
        self.count = total


def has_statistics(path: Path) -> bool:
    """Whether `path` is an npz with a stored mean and covariance."""
    return path.is_file() and path.suffix.lower() == ".npz" and {"mu", "sigma"} <= npz.keys(path)


def load_spatial(path: Path) -> Statistics | None:
    """Stored `mu_s` and `sigma_s`, those of sFID, where the file has them."""
    return _load(path, "_s") if {"mu_s", "sigma_s"} <= npz.keys(path) else None


def load_statistics(path: Path) -> Statistics:
    """Stored `mu` and `sigma`: our own files, or those of other evaluation tools."""
    return _load(path, "")


def _load(path: Path, suffix: str) -> Statistics:
    held = npz.keys(path)
    names = {
        f"mu{suffix}",
        f"sigma{suffix}",
        "format",
        "extractor",
        "resize",
        "count",
        "digest",
        "size",
    }
    stored = npz.load_arrays(path, frozenset(names))
    mu, sigma = stored[f"mu{suffix}"], stored[f"sigma{suffix}"]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or mu.dtype.kind != "f":
        raise MdtError(
            f"{path}: mu{suffix} is {list(mu.shape)} and sigma{suffix} {list(sigma.shape)}; "
            "expected [D] and [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise MdtError(
            f"{path} holds NaN or infinite statistics",
            "compute them again from the reference images",
        )
    if "format" in stored and stored["format"].item() != FORMAT:
        raise MdtError(
            f"{path} has statistics format {stored['format'].item()}, this mdt reads {FORMAT}",
            "write it again with --save-reference",
        )
    adm = {"arr_0", "mu_s", "sigma_s"} <= held
    extractor, resize = _text(stored, "extractor"), _text(stored, "resize")
    match = OF_CLEAN_FID.fullmatch(path.name)
    named = match is not None and not adm and extractor is None and resize is None
    if match is not None and named:
        extractor, resize = "inception", match[1].lower()
    return Statistics(
        mu_D=torch.from_numpy(mu.astype(np.float64)),
        sigma_DD=torch.from_numpy(sigma.astype(np.float64)),
        digest=(None if adm else _text(stored, "digest")) or sha256_of(path),
        extractor=extractor,
        resize=resize,
        count=int(stored["count"].item()) if "count" in stored else None,
        size=(int(stored["size"][0]), int(stored["size"][1])) if "size" in stored else None,
        adm=adm,
        named=named,
    )


def save_statistics(path: Path, statistics: Statistics, spatial: Statistics | None = None) -> None:
    """Write statistics with everything that says what they may be compared with.

    `spatial` are those of sFID, under the names that ADM's files give them.
    """
    if statistics.size is None or statistics.extractor is None or statistics.resize is None:
        raise ValueError("statistics without their origin are not written")
    of_sfid: dict[str, Any] = {}
    if spatial is not None:
        of_sfid = {"mu_s": spatial.mu_D.numpy(), "sigma_s": spatial.sigma_DD.numpy()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            **of_sfid,
            mu=statistics.mu_D.numpy(),
            sigma=statistics.sigma_DD.numpy(),
            format=np.array(FORMAT),
            extractor=np.array(statistics.extractor),
            resize=np.array(statistics.resize),
            count=np.array(statistics.count),
            digest=np.array(statistics.digest),
            size=np.array(statistics.size),
        )


def _text(stored: dict[str, NDArray[Any]], name: str) -> str | None:
    return str(stored[name].item()) if name in stored else None
