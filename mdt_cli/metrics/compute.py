"""From features to the entries of a report."""

from mdt_cli.metrics.features import Entry, Features
from mdt_cli.metrics.registry import GROUPS


def compute(features: Features, metrics: tuple[str, ...]) -> dict[str, Entry]:
    """Each of `metrics`, in their order; ValueError where `features` lack what one needs."""
    found: dict[str, Entry] = {}
    for names, group in GROUPS.items():
        if set(names) & set(metrics):
            found.update(group(features))
    return {metric: found[metric] for metric in metrics}
