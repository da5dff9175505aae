"""Names a person may give to `mdt evaluate`."""

from typing import Literal

MetricName = Literal["fid", "is", "precision", "recall", "kid"]
ExtractorName = Literal["inception", "efficientnet-lite0"]
ResizeName = Literal["clean", "legacy_tensorflow"]
METRICS: tuple[MetricName, ...] = ("fid", "is", "precision", "recall", "kid")
EXTRACTORS: tuple[ExtractorName, ...] = ("inception", "efficientnet-lite0")
RESIZES: tuple[ResizeName, ...] = ("clean", "legacy_tensorflow")
# What can be had from stored statistics alone: the score of the samples and the distance.
METRICS_OF_STATISTICS: tuple[MetricName, ...] = ("fid", "is")
