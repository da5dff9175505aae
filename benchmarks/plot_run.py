"""Plot the loss of a run over its steps, training and held-out.

Usage: `python benchmarks/plot_run.py RUN OUT.png`.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

run, out = Path(sys.argv[1]), sys.argv[2]


def records(name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / name).read_text("utf-8").splitlines()]


figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
log = records("log.jsonl")
for key in sorted({key for record in log for key in record if key.startswith("loss/")}):
    axes.plot([r["step"] for r in log], [r[key] for r in log], label=f"training, {key[5:]} pass")
metrics = records("metrics.jsonl")
for key in sorted(metrics[0]):
    if key.startswith("held_out/") and not key.endswith("online"):
        label = f"held out, {key[9:].replace('/', ' pass, average ')}"
        axes.plot([r["step"] for r in metrics], [r[key] for r in metrics], "o--", label=label)
axes.set(xlabel="step", ylabel="loss", yscale="log")
axes.grid(alpha=0.3)
axes.legend(fontsize=8)
figure.savefig(out, dpi=130)
