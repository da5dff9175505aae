"""The shape of a report of `mdt evaluate`, as far as other stages read it."""

from typing import NotRequired

from typing_extensions import TypedDict

from mdt_cli.schema import Whole


class MetricFields(TypedDict):
    """One score; a report of a codec names no extractor for each."""

    value: float | None
    samples: NotRequired[Whole | None]
    reference: NotRequired[Whole | None]
    extractor: NotRequired[str]


class VerdictFields(TypedDict):
    """Whether the scores may stand beside published ones."""

    verdict: str


class SetFields(TypedDict):
    """A set of images."""

    path: NotRequired[str]


class ExtractorFields(TypedDict):
    """The network that computed the features."""

    id: str


class ReportFields(TypedDict):
    """The scores of one set of samples."""

    metrics: dict[str, MetricFields]
    comparability: VerdictFields
    samples: NotRequired[SetFields]
    reference: NotRequired[SetFields]
    extractor: NotRequired[ExtractorFields]


class ComparisonFields(TypedDict):
    """The reports of several sets of samples, and what they say together."""

    reports: list[ReportFields]
