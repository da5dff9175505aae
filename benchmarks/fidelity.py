"""Write docs/fidelity.md: our numbers beside those of the official code.

python benchmarks/fidelity.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mdt_cli.config.run import RunConfig  # noqa: E402 - the root of the checkout comes first
from mdt_cli.core.objectives.epsilon import Epsilon  # noqa: E402
from mdt_cli.core.objectives.step import View, ViewDraw, view_loss  # noqa: E402
from mdt_cli.core.sampling.guidance import constant, guided, power_cosine  # noqa: E402
from mdt_cli.services.build import build_network  # noqa: E402
from tests.golden.numbers import (  # noqa: E402
    CONFIGS,
    FORWARD,
    GUIDED,
    LOSSES,
    PARAMETERS,
    SIZES,
)
from tests.golden.synthetic import fill_synthetically, latents, subset  # noqa: E402

NAMES = {"dit": "DiT", "mdt": "MDT v1", "mdtv2": "MDT v2"}
T, Y = torch.tensor([10, 900]), torch.tensor([3, 7])


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
    networks = {}
    for name, tables in CONFIGS.items():
        networks[name] = build_network(RunConfig.model_validate(tables), (4, 32, 32), 1000).eval()
        fill_synthetically(networks[name])
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


def guided_pair(network: torch.nn.Module, scale: float, power: float | None) -> torch.Tensor:
    at = constant(scale) if power is None else power_cosine(scale, power, lambda t: t / 1000)
    halves: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for x, time, label in zip(latents(1).split(1), T.tolist(), Y.tolist(), strict=True):

        def conditional(x: torch.Tensor, t: torch.Tensor, y: int = label) -> torch.Tensor:
            return network(x, t, torch.tensor([y]))

        def null(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return network(x, t, torch.tensor([1000]))

        t = torch.tensor([time])
        merged = guided(conditional, null, at, "first3")(x, t)
        halves[0].append(merged)
        halves[1].append(torch.cat([merged[:, :3], null(x, t)[:, 3:]], 1))
    return torch.cat(halves[0] + halves[1])


def losses(network: torch.nn.Module, name: str, keep: int) -> list[float]:
    objective = Epsilon(min_snr_gamma=5.0 if name == "mdtv2" else None)
    clean, noise = latents(2, 3), latents(3, 3)
    t, y = torch.tensor([0, 60, 900]), torch.tensor([3, 7, 999])
    draw = ViewDraw(noise, y, subset(3, keep) if keep else None)
    total = view_loss(network, objective, View("kept", "all", 1.0), draw, clean, t, 2)
    noisy = objective.add_noise(clean, noise, t)
    output = network(noisy, t, y, draw.subset)
    bound = objective.variational_bound(output, clean, noisy, t).flatten(1).mean(1)
    return [*(total - bound).tolist(), *bound.tolist()]


def parameters(name: str, size: str, decoder: int) -> int:
    tables = {key: dict(table) for key, table in CONFIGS[name].items()}
    hidden_size, depth, heads = SIZES[size]
    tables["model"] |= {"hidden_size": hidden_size, "depth": depth, "num_heads": heads}
    tables["model"]["decoder_depth"] = decoder
    if "masking" in tables:
        tables["masking"]["restore_at"] = -decoder
    with torch.device("meta"):
        network = build_network(RunConfig.model_validate(tables), (4, 32, 32), 1000)
    fixed = 0 if tables["model"].get("positions") == "learned" else network.positions_ND.numel()
    return sum(p.numel() for p in network.parameters()) + fixed


if __name__ == "__main__":
    target = ROOT / "docs" / "fidelity.md"
    target.write_text("\n".join(lines()) + "\n", "utf-8")
    print(target.read_text("utf-8"))
