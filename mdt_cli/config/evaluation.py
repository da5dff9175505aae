"""Names a person may give to `mdt evaluate`."""

from typing import Literal

MetricName = Literal["fid", "is", "precision", "recall", "kid"]
ExtractorName = Literal["inception", "efficientnet-lite0"]
METRICS: tuple[MetricName, ...] = ("fid", "is", "precision", "recall", "kid")
EXTRACTORS: tuple[ExtractorName, ...] = ("inception", "efficientnet-lite0")
