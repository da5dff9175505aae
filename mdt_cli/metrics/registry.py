"""Names under which metrics stand in reports and logs, and their published settings."""

from mdt_cli.config.evaluation import MetricName

# Kynkaanniemi et al. 2019 and Naeem et al. 2020: how far the balls of each pair of metrics reach.
NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5


def metric_key(metric: MetricName, extractor: str) -> str:
    """`fid` is Inception's alone; numbers of another extractor carry its name."""
    if extractor == "inception" or (metric, extractor) == ("cmmd", "clip"):
        return metric
    suffix = extractor.replace("-", "_")
    return f"{metric.replace('fid', 'fd', 1)}_{suffix}"
