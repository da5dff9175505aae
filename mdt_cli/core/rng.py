"""Randomness as a pure function of where it is used: no state to save, none to lose."""

import hashlib

import torch


def stream(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone, such as (seed, step, micro-batch, "noise").

    CPU on every machine, so that the same key draws the same numbers whatever device trains.
    torch seeds this engine with 32 bits: two keys in 4e9 may share a stream, which is harmless.
    """
    text = "/".join(str(part) for part in key)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return torch.Generator().manual_seed(seed)
