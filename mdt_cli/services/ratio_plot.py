"""The mask ratio of a run as a picture."""

from pathlib import Path

from mdt_cli.core.files import atomic_path
from mdt_cli.errors import MdtError
from mdt_cli.services.mask_ratio import RatioCurve

FORMATS = (".png", ".svg", ".pdf")


def plot_ratio(curve: RatioCurve, title: str, path: Path) -> None:
    """Write a line, or a band where the ratio is drawn; MdtError for another kind of file."""
    if path.suffix.lower() not in FORMATS:
        raise MdtError(
            f"--plot {path}: no such kind of picture", f"the name may end in {', '.join(FORMATS)}"
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    if curve.low != curve.high:
        axes.fill_between(curve.steps, curve.low, curve.high, alpha=0.3, label="drawn per step")
        axes.legend()
    middle = [(low + high) / 2 for low, high in zip(curve.low, curve.high, strict=True)]
    axes.plot(curve.steps, middle)
    axes.set(xlabel="optimizer step", ylabel="mask ratio", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)
