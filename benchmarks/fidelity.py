"""Write docs/fidelity.md: our numbers and those of plain restatements beside official ones.

python benchmarks/fidelity.py
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.golden import numbers  # noqa: E402 - the root of the checkout comes first
from tests.golden.cases import OUR_LOSSES, OURS, parameters, sized, summary  # noqa: E402
from tests.golden.networks import Net, as_trained, plain_network, synthetic_network  # noqa: E402
from tests.golden.plain_cases import PLAIN, PLAIN_LOSSES  # noqa: E402
from tests.golden.rules import Rule  # noqa: E402
from tests.golden.rules import worst as worst_of_rule  # noqa: E402
from tests.golden.rules_solvers import RULES as SOLVERS  # noqa: E402
from tests.golden.rules_starts import RULES  # noqa: E402

Cases = Mapping[tuple[str, str], tuple[float, ...]]
Answer = Callable[[str, str, Net, bool], list[float]]


def worst(found: list[float], official: tuple[float, ...]) -> str:
    """Largest difference, relative to the number or to 0.1 where that is smaller."""
    pairs = zip(found, official, strict=True)
    return f"{max(abs(a - b) / max(abs(b), 0.1) for a, b in pairs):.1e}"


def output(name: str, what: str, net: Net, is_plain: bool) -> list[float]:
    return summary((PLAIN if is_plain else OURS)[name, what](net))


def loss(name: str, what: str, net: Net, is_plain: bool) -> list[float]:
    return (PLAIN_LOSSES if is_plain else OUR_LOSSES)[name, what](net)


def rows(cases: Cases, answer: Answer, width: int) -> Iterator[str]:
    for name, title in numbers.TITLES.items():
        mine = {what: official for (owner, what), official in cases.items() if owner == name}
        if not mine:
            continue
        network = synthetic_network(name)
        fused, plain = as_trained(network), plain_network(name, network)
        for what, official in mine.items():
            print(f"{title}: {what}", file=sys.stderr)
            ours, slow = answer(name, what, fused, False), answer(name, what, plain, True)
            cells = [
                f"{a:.5f} / {b:.5f} / {c:.5f}" for a, b, c in zip(ours, slow, official, strict=True)
            ]
            cells += [""] * (width - len(cells))
            both = f"{worst(ours, official)} | {worst(slow, official)}"
            yield f"| {title}: {what} | {' | '.join(cells)} | {both} |"


def head(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"


def counted() -> Iterator[tuple[str, int, int]]:
    """Name, ours, official."""
    for size, count in numbers.DIT.items():
        yield f"DiT-{size.upper()}/2", parameters("dit", sized(size), frozen=True), count
    for size, count in numbers.DIT_TRAINABLE.items():
        yield f"DiT-{size.upper()}/2, trainable", parameters("dit", sized(size)), count
    for preset, title, decoder, table in (
        ("mdt", "MDT v1", 2, numbers.MDT_V1),
        ("mdtv2", "MDT v2", 4, numbers.MDT_V2_4),
        ("mdtv2", "MDT v2", 6, numbers.MDT_V2_6),
    ):
        for size, count in table.items():
            ours = parameters(preset, sized(size, decoder_depth=decoder))
            yield f"{title}-{size.upper()}/2, decoder of {decoder}", ours, count
    for size, count in numbers.MASKDIT.items():
        yield f"MaskDiT-{size.upper()}/2", parameters("maskdit", sized(size), frozen=True), count
    for size, count in numbers.MASKDIT_TRAINABLE.items():
        yield f"MaskDiT-{size.upper()}/2, trainable", parameters("maskdit", sized(size)), count
    for preset, title, networks in (
        ("uvit", "U-ViT", numbers.UVIT),
        ("maskdm", "MaskDM", numbers.MASKDM),
    ):
        for size, (model, shape, classes, count) in networks.items():
            yield f"{title} {size}", parameters(preset, model, shape, classes), count
    for size, (patch, count, trainable) in numbers.LMD.items():
        keys, shape = {"patch_size": patch, "narrow_decoder.hidden_size": 512}, (4, 28, 28)
        yield f"LMD base, {size}", parameters("lmd", keys, shape, 0, frozen=True), count
        if trainable is not None:
            yield f"LMD base, {size}, trainable", parameters("lmd", keys, shape, 0), trainable
    for size, count in numbers.LIGHTNINGDIT.items():
        ours = parameters("lightningdit", sized(size), frozen=True)
        yield f"LightningDiT-{size.upper()}/2", ours, count
    for size, (bottleneck, count) in numbers.JIT.items():
        keys = sized(size, patch_bottleneck=bottleneck, class_tokens=0, class_tokens_at=0)
        ours = parameters("jit", keys, (3, 256, 256), 0, frozen=True)
        yield f"JiT-{size.upper()}/16, no classes", ours, count


def rule_rows(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules:
        ours = rule.ours()
        cells = [", ".join(f"{x:.6g}" for x in numbers) for numbers in (rule.official, ours)]
        far = f"{worst_of_rule(rule, ours):.1e}"
        yield f"| {rule.recipe} | {rule.rule} | {rule.before} | {' | '.join(cells)} | {far} |"


@torch.no_grad()
def lines() -> Iterator[str]:
    yield "# Fidelity\n"
    yield (
        "Every number is given three times: **ours / plain / official**. Ours is the code path "
        "that trains and samples: the modulation of all blocks from one matrix product, the "
        "relative bias gathered once and given to a fused attention kernel, kept tokens in sorted "
        "order, losses on pooled error maps, guidance on clean estimates. Plain is a restatement "
        "that shares no line with it (`tests/reference/transformers.py`, `diffusion.py`): one "
        "product per block, attention as an explicit softmax, tokens in the order in which they "
        "were sampled, losses patch by patch, guidance on the network output. Official was "
        "printed by the official code (torch 2.13, CPU) on the same synthetic weights and inputs, "
        "which one formula generates (`tests/golden/synthetic.py`).\n"
    )
    yield (
        "The last two columns are the largest difference from the official numbers, relative to "
        "the number (or to 0.1 where it is smaller; official numbers have five digits after the "
        "point, so 5e-5 is the limit of their rounding). All rows are tests as well "
        "(`tests/core/model/test_golden.py`). Made by `python benchmarks/fidelity.py`.\n\n"
        "The synthetic weights are small: with them a token in U-ViT, MaskDM and LMD hardly "
        "attends to the others, and a fault in attention could hide below five digits. So ours "
        "and plain are compared once more with large random weights in double precision, to 1e-6 "
        "of the largest value (`tests/core/model/test_plain.py`).\n"
    )
    yield (
        "MC-DiT and TREAD have no published numbers to compare with: no official code of the "
        "first is public, and the second adds no parameter and no arithmetic to DiT; its rules are "
        "below. Loss terms and routes are tested against restatements of the papers instead.\n"
    )
    yield "## Outputs\n"
    columns = ("mean", "std", "first", "second", "third", "last")
    yield from head("case", *columns, "ours, worst", "plain, worst")
    yield from rows(numbers.OUTPUTS, output, len(columns))
    yield "\n## Losses\n"
    yield (
        "mse at t = 0, 60, 900, then the variational bound at the same times; DSM at sigma = 0.3 "
        "and 5, then MAE before its weight of 0.1; LMD's loss of a batch with and without "
        "normalised patches.\n"
    )
    yield from head("case", *("1", "2", "3", "4", "5", "6"), "ours, worst", "plain, worst")
    yield from rows(numbers.LOSSES, loss, 6)
    yield "\n## Rules\n"
    yield (
        "Defaults, orders and schedules of the official code, as numbers that it printed, beside "
        "what ours computes now and what version 0.1 had. Random starts are statistics of other "
        "random numbers, so they agree to a few per cent. Tests: `tests/golden/test_rules.py`.\n"
    )
    yield from head("recipe", "rule", "version 0.1", "official", "ours", "worst")
    yield from rule_rows((*RULES, *SOLVERS))
    yield "\n## Parameters\n"
    yield (
        "1,000 classes and 4 x 32 x 32 latents unless the row says otherwise; MaskDM has pixels "
        "and no classes, LMD 4 x 28 x 28 latents. Official DiT, MaskDiT and LMD count fixed "
        "position tables as frozen parameters; ours are not stored, so they are added to ours "
        "unless the row says trainable.\n"
    )
    yield from head("network", "ours", "official", "same")
    for name, ours, official in counted():
        yield f"| {name} | {ours:,} | {official:,} | {'yes' if ours == official else 'NO'} |"


if __name__ == "__main__":
    target = ROOT / "docs" / "fidelity.md"
    target.write_text("\n".join(lines()) + "\n", "utf-8")
    print(target.read_text("utf-8"))
