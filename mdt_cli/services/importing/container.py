"""From the containers that training code saves to one state dict under official names."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.errors import MdtError
from mdt_cli.text import nearest

EMA, ONLINE = "ema", "online"
# What DistributedDataParallel and torch.compile put around a network, anywhere in a name.
WRAPPERS = ("module", "_orig_mod")
# Training dicts of DiT, MaskDiT, MaskDM and others: key -> which weights.
SETS = {"ema": EMA, "model": ONLINE, "state_dict": ONLINE}
# ema-pytorch (MaskDM) keeps both in one dict.
PAIR = {"ema_model.": EMA, "online_model.": ONLINE}


@dataclass(frozen=True)
class Contents:
    """One set of weights from a file.

    tensors: by name, wrappers and prefix removed. beside: what else the set holds, such as a noise
    schedule. which: "ema", "online", or None where the file does not store it; offered: all sets.
    """

    tensors: Mapping[str, Tensor]
    beside: Mapping[str, Any]
    which: str | None
    offered: tuple[str, ...]
    step: int | None
    step_from: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def unpack(held: object, path: Path, asked: str | None, inside: str) -> Contents:
    """The weights `asked` for ("ema", "online"; None: EMA where the file has them).

    inside: a prefix of every name of the network, such as "model."; a file without it is read as
    well. Raises MdtError.
    """
    if asked is not None and asked not in (EMA, ONLINE):
        near = nearest(asked, (EMA, ONLINE))
        meant = f"; did you mean {near}?" if near else ""
        raise MdtError(f"--weights {asked}: no such weights{meant}", "expected ema or online")
    if not isinstance(held, Mapping):
        raise MdtError(f"{path} contains a {type(held).__name__}, not a state dict")
    sets = _sets(held, path)
    # A flat file holds one set, under "": only its name or its maker can tell which it is.
    chosen = "" if "" in sets else asked or (EMA if EMA in sets else next(iter(sets)))
    if chosen not in sets:
        raise MdtError(
            f"{path} has no {asked} weights",
            f"it has {' and '.join(sets)}: leave out --weights",
        )
    tensors, beside = _within(sets[chosen], inside)
    if not tensors:
        raise MdtError(f"{path} contains no tensors", "expected the state dict of a network")
    step, step_from = _step(held, path)
    arguments = held.get("args")
    return Contents(
        tensors=tensors,
        beside=beside,
        which=chosen or asked or _named(path),
        offered=tuple(name for name in sets if name),
        step=step,
        step_from=step_from,
        arguments=vars(arguments) if isinstance(arguments, argparse.Namespace) else {},
    )


def _sets(held: Mapping[Any, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The state dicts in a container by kind of weights; "" where that is not stored."""
    inner = {key: held[key] for key in SETS if isinstance(held.get(key), Mapping)}
    if not inner:
        flat = _plain(held, path)
        return _pair(flat) or {"": flat}
    sets: dict[str, dict[str, Any]] = {}
    for key, value in inner.items():
        flat = _plain(value, path)
        # The trainer's own online weights come after, and replace, those beside the average.
        sets |= _pair(flat) or {SETS[key]: flat}
    return sets


def _pair(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not any(name.startswith("ema_model.") for name in flat):
        return {}
    return {
        which: {
            name.removeprefix(start): value
            for name, value in flat.items()
            if name.startswith(start)
        }
        for start, which in PAIR.items()
        if any(name.startswith(start) for name in flat)
    }


def _plain(held: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Names without the prefixes of wrappers."""
    found: dict[str, Any] = {}
    for key, value in held.items():
        name = ".".join(word for word in str(key).split(".") if word not in WRAPPERS)
        if name in found:
            raise MdtError(f"{path} has {name} twice, with and without the prefix of a wrapper")
        found[name] = value
    return found


def _within(held: Mapping[str, Any], inside: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the network with the prefix removed, and everything else."""
    start = inside if any(name.startswith(inside) for name in held) else ""
    tensors: dict[str, Tensor] = {}
    beside: dict[str, Any] = {}
    for name, value in held.items():
        is_tensor = isinstance(value, Tensor) and value.layout is torch.strided
        if is_tensor and name.startswith(start):
            tensors[name.removeprefix(start)] = value
        else:
            beside[name] = value
    return tensors, beside


def _named(path: Path) -> str | None:
    """The kind of weights by the file name: MDT's training writes one file for each."""
    if re.match(r"ema_[0-9.]+_\d+$", path.stem):
        return EMA
    return ONLINE if re.match(r"model\d+$", path.stem) else None


def _step(held: Mapping[Any, Any], path: Path) -> tuple[int | None, str | None]:
    """Optimizer steps of the weights, and where the number comes from."""
    if (step := _whole(held.get("step"))) is not None:
        return step, "step in the file"
    for key in ("opt", "optimizer"):
        optimizer = held.get(key)
        states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
        if isinstance(states, Mapping):
            for state in states.values():
                if isinstance(state, Mapping) and (step := _whole(state.get("step"))) is not None:
                    return step, "optimizer state in the file"
    named = re.fullmatch(r"(?:model|ema_[0-9.]+_)?(\d{5,})", path.stem)
    return (int(named[1]), "file name") if named else (None, None)


def _whole(value: object) -> int | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value >= 0 and value == int(value) else None
