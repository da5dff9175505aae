"""Which function computes which metrics.

A new metric is its file, a line here and a line of `FACTS` in `config/evaluation.py`.
"""

from collections.abc import Callable, Mapping

from mdt_cli.config.evaluation import MetricName, facts_of
from mdt_cli.metrics.features import Entry, Features
from mdt_cli.metrics.frechet import frechet, frechet_limit, spatial_frechet
from mdt_cli.metrics.inception_score import classified
from mdt_cli.metrics.kernel import clip_kernel, cubic_kernel
from mdt_cli.metrics.memorisation import memorised
from mdt_cli.metrics.precision_recall import balls, manifolds

Group = Callable[[Features], Mapping[MetricName, Entry]]

# Metrics of one group are computed in one pass.
GROUPS: Mapping[tuple[MetricName, ...], Group] = {
    ("fid",): frechet,
    ("sfid",): spatial_frechet,
    ("is",): classified,
    ("precision", "recall"): lambda x: manifolds(x, facts_of("precision").neighbours),
    ("density", "coverage"): lambda x: balls(x, facts_of("density").neighbours),
    ("kid",): cubic_kernel,
    ("cmmd",): clip_kernel,
    ("memorisation",): memorised,
    ("fid_infinity",): frechet_limit,
}
