"""What may be asked of `mdt evaluate`: metrics, with what is known of each before it is computed,
extractors and resize modes. No torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from mdt_cli.errors import MdtError
from mdt_cli.text import nearest

ExtractorName = Literal["inception", "efficientnet-lite0", "dinov2", "clip"]
ResizeName = Literal["clean", "legacy_tensorflow", "legacy_pytorch"]
# What a metric is computed from: mean and covariance of both sides, of pooled or of spatial
# features; the features of each sample, or of each reference image; the extractor's class layer.
Need = Literal["moments", "spatial moments", "samples", "reference", "classes"]
# How the expectation of a metric, samples and reference of one distribution, moves with the number
# of samples: not at all; always; only as long as the samples are fewer than its entry asks for.
Bias = Literal["none", "count", "few"]
Table = Literal["ADM", "clean-fid"]
Name = TypeVar("Name", bound=str)
EXTRACTORS: tuple[ExtractorName, ...] = get_args(ExtractorName)
RESIZES: tuple[ResizeName, ...] = get_args(ResizeName)


@dataclass(frozen=True)
class MetricFacts:
    """What can be known of a metric without computing it."""

    name: str
    key: str  # the first part of its name in reports of other extractors than its own
    needs: frozenset[Need]
    direction: Literal["lower", "higher"]  # which values are better
    bias: Bias
    # The extractors that it is defined for; its own first. None named: all, and Inception is its.
    only_of: tuple[ExtractorName, ...] = ()
    online: bool = False  # whether a run can compute it while it trains
    default: bool = False  # whether it is computed where no metrics were asked for
    neighbours: int = 0  # its balls reach to this neighbour: each set needs one more row
    tables: frozenset[Table] = frozenset()  # families of published tables that have it

    def named_by(self, extractor: str) -> str:
        """Its name in reports and logs; only numbers of its own extractor have the plain name."""
        own = self.only_of[0] if self.only_of else "inception"
        return self.name if extractor == own else f"{self.key}_{extractor.replace('-', '_')}"


MOMENTS: frozenset[Need] = frozenset({"moments"})
ROWS: frozenset[Need] = frozenset({"samples", "reference"})
ADM: frozenset[Table] = frozenset({"ADM"})
CLEAN_FID: frozenset[Table] = frozenset({"clean-fid"})
# In the order of reports. Neighbours: Kynkaanniemi et al. 2019; Naeem et al. 2020.
# fmt: off
FACTS: tuple[MetricFacts, ...] = (
    MetricFacts("fid", "fd", MOMENTS, "lower", "count",
                online=True, default=True, tables=ADM | CLEAN_FID),
    MetricFacts("sfid", "sfid", frozenset({"spatial moments"}), "lower", "count",
                only_of=("inception",), default=True, tables=ADM),
    MetricFacts("is", "is", frozenset({"samples", "classes"}), "higher", "count",
                only_of=("inception", "efficientnet-lite0"), online=True, default=True, tables=ADM),
    MetricFacts("precision", "precision", ROWS, "higher", "none",
                online=True, default=True, neighbours=3, tables=ADM),
    MetricFacts("recall", "recall", ROWS, "higher", "count",
                online=True, default=True, neighbours=3, tables=ADM),
    MetricFacts("density", "density", ROWS, "higher", "none", online=True, neighbours=5),
    MetricFacts("coverage", "coverage", ROWS, "higher", "count", online=True, neighbours=5),
    MetricFacts("kid", "kid", ROWS, "lower", "none", online=True, default=True, tables=CLEAN_FID),
    MetricFacts("cmmd", "cmmd", ROWS, "lower", "count", only_of=("clip",), default=True),
    MetricFacts("memorisation", "memorisation", ROWS, "lower", "none"),
    MetricFacts("fid_infinity", "fd_infinity", MOMENTS | {"samples"}, "lower", "few"),
)
# What a codec's images are measured by; see `mdt evaluate --reconstruction`.
CODEC_FACTS: tuple[MetricFacts, ...] = (
    MetricFacts("rfid", "rfd", MOMENTS, "lower", "count"),
    MetricFacts("psnr", "psnr", frozenset(), "higher", "none"),
    MetricFacts("ssim", "ssim", frozenset(), "higher", "none"),
    MetricFacts("lpips", "lpips", frozenset(), "lower", "none"),
)
# fmt: on
METRICS: tuple[str, ...] = tuple(facts.name for facts in FACTS)
# One of METRICS. The names stand in FACTS alone, so types are checked where values come in.
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[METRICS]


def facts_of(metric: MetricName) -> MetricFacts:
    """The facts of one of `METRICS`."""
    return next(facts for facts in FACTS if facts.name == metric)


def facts_of_key(key: str) -> MetricFacts | None:
    """The facts of a metric by its name in a report; None for one that this version does not know.

    The longest match decides: `fd_infinity_x` is no `fd`.
    """
    matches = [
        (len(known), facts)
        for facts in (*FACTS, *CODEC_FACTS)
        for known in {facts.name, facts.key}
        if key == known or key.startswith(known + "_")
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def lower_is_better(key: str) -> bool:
    """Whether smaller values of a report's metric are better; of an unknown one larger ones are."""
    facts = facts_of_key(key)
    return facts is not None and facts.direction == "lower"


def that_need(need: Need, metrics: tuple[MetricName, ...] = METRICS) -> tuple[MetricName, ...]:
    """Those of `metrics` that are computed from `need`."""
    return tuple(metric for metric in metrics if need in facts_of(metric).needs)


def that_compare_moments(metrics: tuple[MetricName, ...]) -> bool:
    """Whether one of `metrics` is a distance between Gaussians, which stored statistics serve."""
    return bool(that_need("moments", metrics) or that_need("spatial moments", metrics))


def of_tables(table: Table) -> tuple[MetricName, ...]:
    """Those that published tables of a family have."""
    return tuple(facts.name for facts in FACTS if table in facts.tables)


def of_neighbours(metrics: tuple[MetricName, ...]) -> dict[int, tuple[MetricName, ...]]:
    """Those of `metrics` that look at k nearest neighbours, by k."""
    found: dict[int, tuple[MetricName, ...]] = {}
    for facts in map(facts_of, metrics):
        if facts.neighbours:
            found[facts.neighbours] = (*found.get(facts.neighbours, ()), facts.name)
    return found


MODULE_FILES = frozenset({".pt", ".pt2", ".pth", ".ts"})


def choose(flag: str, given: str | None, names: tuple[Name, ...]) -> Name | None:
    """One of `names`, or None where nothing was given."""
    if given is None:
        return None
    for name in names:
        if name == given.strip():
            return name
    near = nearest(given, names)
    meant = f"; did you mean {near}?" if near else ""
    raise MdtError(f"{flag}: no {given}{meant}", f"there are: {', '.join(names)}")


def choose_several(
    flag: str, given: str | None, names: tuple[Name, ...]
) -> tuple[Name, ...] | None:
    """Some of `names` from a comma-separated list, or None where nothing was given."""
    if given is None:
        return None
    found = [choose(flag, part, names) for part in given.split(",") if part.strip()]
    if not found:
        raise MdtError(f"{flag} is empty", f"there are: {', '.join(names)}")
    return tuple(name for name in found if name is not None)


def choose_extractor_or_file(flag: str, given: str | None) -> ExtractorName | Path | None:
    """A name, or the path of a TorchScript or exported module."""
    if given is not None and Path(given.strip()).suffix.lower() in MODULE_FILES:
        return Path(given.strip())
    return choose(flag, given, EXTRACTORS)
