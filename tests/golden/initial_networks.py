"""The weights that training starts from, as names, shapes, digests and sums.

    OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 python -m tests.golden.initial_networks --write FILE

writes what the checkout that PYTHONPATH names makes: once for `avx2` and once for `default`, whose
normal random numbers differ in their last bits. The file beside this one was written by version 0.1
(commit 4289abc); `patches.conv` of uvit and maskdm, and lmd, later. It
changes only if new runs are to start from other weights than before.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdt_cli.config.load import load_config
from mdt_cli.core.rng import stream

try:
    from mdt_cli.services.build.network import build_network
except ModuleNotFoundError:  # version 0.1, which wrote the numbers
    from mdt_cli.services.build import build_network

GOLDEN = Path(__file__).with_name("initial_weights.json")
LATENT_SHAPE, NUM_CLASSES = (4, 16, 16), 10


@dataclass(frozen=True)
class Start:
    """Presets of a network; `tensors`: the golden file describes each of its tensors."""

    presets: tuple[str, ...]
    tensors: bool = True

    @property
    def name(self) -> str:
        return " ".join(self.presets)


TINY = (
    *("dit", "mdt", "mdtv2", "maskdit", "mcdit", "maskdm", "lmd", "uvit"),
    # What version 0.1 called tread.
    *("tread-ddpm", "tread-mean", "drop", "deferred", "quickstart"),
)
STAGES = (
    ("lmd", "size/tiny", "lmd-code"),
    ("lmd", "size/tiny", "lmd-classify"),
    ("maskdit", "size/tiny", "maskdit-finetune"),
    ("maskdit", "size/tiny", "maskdit-finetune-cos"),
    ("mcdit", "size/tiny", "mcdit-finetune"),
    ("maskdm", "size/tiny", "maskdm-finetune"),
    ("mdtv2", "size/tiny", "unmasked"),
)
LARGER = (("dit", "size/s"), ("mdtv2", "size/s"), ("mdt", "size/s"), ("uvit",), ("maskdm",))
STARTS = (
    *(Start((recipe, "size/tiny")) for recipe in TINY),
    *(Start(presets, tensors=False) for presets in (*STAGES, *LARGER)),
)


def initial_parameters(presets: Sequence[str]) -> Mapping[str, torch.Tensor]:
    """What a run of these presets starts from, in the order of registration."""
    config = load_config(presets, []).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config.training.seed, "init").initial_seed())
        network = build_network(config, LATENT_SHAPE, NUM_CLASSES)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def described(parameters: Mapping[str, torch.Tensor], tensors: bool) -> dict[str, Any]:
    """The digest of all; of each tensor its shape, digest, sum, norm and tilt.

    The tilt weighs the values evenly from -1 to 1, so that it sees a permutation.
    """
    whole = hashlib.sha256()
    rows: dict[str, list[Any]] = {}
    for name, tensor in parameters.items():
        data = tensor.numpy().tobytes()
        shape = list(tensor.shape)
        whole.update(f"{name} {shape}\n".encode() + data)
        if tensors:
            flat = tensor.double().flatten()
            tilt = (flat * torch.linspace(-1, 1, len(flat), dtype=torch.float64)).sum()
            numbers = [float(f"{float(x):.9g}") for x in (flat.sum(), flat.norm(), tilt)]
            rows[name] = [shape, hashlib.sha256(data).hexdigest()[:12], *numbers]
    found: dict[str, Any] = {"sha256": whole.hexdigest()}
    return {**found, "tensors": rows} if tensors else {**found, "count": len(parameters)}


def processor() -> str:
    """The vector instructions that fill a tensor with random floats here."""
    return torch.backends.cpu.get_cpu_capability()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, required=True)
    path = parser.parse_args().write
    held = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    held[processor()] = {
        start.name: described(initial_parameters(start.presets), start.tensors) for start in STARTS
    }
    text = json.dumps(held, separators=(",", ":"), sort_keys=False)
    path.write_text(text.replace('],"', '],\n"').replace('},"', '},\n"') + "\n", "utf-8")


if __name__ == "__main__":
    main()
