"""Write docs/fidelity.md: our numbers beside those of the official code.

python benchmarks/fidelity.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.golden.cases import (  # noqa: E402 - the root of the checkout comes first
    T,
    Y,
    guided_pair,
    losses,
    parameters,
    synthetic_network,
)
from tests.golden.numbers import CONFIGS, FORWARD, GUIDED, LOSSES, PARAMETERS  # noqa: E402
from tests.golden.synthetic import latents, subset  # noqa: E402

NAMES = {"dit": "DiT", "mdt": "MDT v1", "mdtv2": "MDT v2"}


def summary(output: torch.Tensor) -> list[float]:
    flat = output.double().flatten()
    return [flat.mean().item(), flat.std(correction=0).item(), *flat[:3].tolist(), flat[-1].item()]


def row(case: str, ours: list[float], official: list[float]) -> str:
    # Relative to the larger of the number and the last digit that was printed.
    worst = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(ours, official, strict=True))
    cells = " | ".join(f"{a:.5f} / {b:.5f}" for a, b in zip(ours, official, strict=True))
    return f"| {case} | {cells} | {worst:.1e} |"


@torch.no_grad()
def lines() -> Iterator[str]:
    networks = {name: synthetic_network(name) for name in CONFIGS}
    yield "# Fidelity\n"
    yield (
        "Ours / official, on synthetic weights and inputs made by one formula for both "
        "(`tests/golden/synthetic.py`); size S, patch 2, latents 4 x 32 x 32. The official numbers "
        "were printed by the official code (torch 2.13, CPU). Made by "
        "`python benchmarks/fidelity.py`; the same numbers are tests "
        "(`tests/core/model/test_golden.py`). `worst` is the largest difference relative to the "
        "official number (or to 0.1 where that is smaller).\n"
    )
    yield "## Network output\n"
    yield "| case | mean | std | first | second | third | last | worst |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, keep, mean, std, first, last in FORWARD:
        output = networks[name](latents(1), T, Y, subset(2, keep) if keep else None)
        case = f"{NAMES[name]} " + (f"masked, {keep} of 256 kept" if keep else "all tokens")
        yield row(case, summary(output), [mean, std, *first, last])
    for name, scale, power, mean, std, first, last in GUIDED:
        case = f"{NAMES[name]} guided, scale {scale}" + (f", power {power:g}" if power else "")
        yield row(
            case, summary(guided_pair(networks[name], scale, power)), [mean, std, *first, last]
        )
    yield "\n## Losses per sample at t = 0, 60, 900\n"
    yield "| case | mse 0 | mse 60 | mse 900 | vb 0 | vb 60 | vb 900 | worst |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, keep, mse, bound in LOSSES:
        case = f"{NAMES[name]} " + ("masked" if keep else "all tokens")
        yield row(case, losses(networks[name], name, keep), [*mse, *bound])
    yield "\n## Parameters at 256 px, 1,000 classes\n"
    yield "| network | ours | official |"
    yield "|---|---|---|"
    for name, size, decoder, count in PARAMETERS:
        blocks = f", decoder of {decoder}" if decoder else ""
        ours = parameters(name, size, decoder)
        yield f"| {NAMES[name]} {size.upper()}/2{blocks} | {ours:,} | {count:,} |"


if __name__ == "__main__":
    target = ROOT / "docs" / "fidelity.md"
    target.write_text("\n".join(lines()) + "\n", "utf-8")
    print(target.read_text("utf-8"))
