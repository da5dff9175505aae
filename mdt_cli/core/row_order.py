"""Which row comes when: a pure function, so there is no sampler state to save and none to lose."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def row_at(seed: int, count: int, position: Tensor) -> Tensor:
    """The rows (int64, any shape) at the global sample counters `position`.

    Sample p is entry p % count of the permutation of epoch p // count; each (seed, epoch) has its
    own permutation of 0..count-1, so that every epoch shows every row once.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if position.numel() and int(position.min()) < 0:
        raise ValueError(f"positions count from 0, not {int(position.min())}")
    epochs = torch.div(position, count, rounding_mode="floor")
    within = position - epochs * count
    rows = torch.empty_like(position, dtype=torch.int64)
    for epoch in epochs.unique().tolist():
        chosen = epochs == epoch
        rows[chosen] = _permutation(seed, epoch, count)[within[chosen]]
    return rows


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    # torch's CPU generator keeps 32 bits of its seed: both numbers are hashed into them, so that
    # neighbouring seeds and epochs share nothing.
    digest = hashlib.sha256(f"row order/{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.randperm(count, generator=generator)
