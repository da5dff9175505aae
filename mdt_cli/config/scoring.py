"""`[evaluation]`: scores of samples while a run trains."""

from typing import Annotated

from pydantic import Field

from mdt_cli.config.base import BatchSize, CountOrZero, SamplingSteps, Table
from mdt_cli.config.evaluation import ExtractorName, MetricName

AtLeastTwo = Annotated[int, Field(ge=2)]


class EvaluationConfig(Table):
    """Samples of the first EMA weights against images of the cache, with seeds of their own.

    With few samples the numbers rank the checkpoints of one run; they are not for a table.
    """

    # 0: never.
    every: CountOrZero = 0
    count: AtLeastTwo = 1000
    # Images of the cache; their features are computed once and kept in the run folder.
    reference: AtLeastTwo = 2000
    steps: SamplingSteps = 25
    batch_size: BatchSize = 64
    extractor: ExtractorName = "efficientnet-lite0"
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("fid", "kid")
