"""The report as one page of HTML, made by the template `report.html.j2` beside this file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mdt_cli.config.evaluation import lower_is_better
from mdt_cli.files import atomic_path
from mdt_cli.services.evaluate.figures import Figure
from mdt_cli.services.evaluate.report import missing_classes

Figures = Mapping[str, Sequence[Figure]]
MOST_CLASSES = 50


def write_page(path: Path, report: Mapping[str, Any], figures: Sequence[Figures]) -> None:
    """Write the page; `figures` are those of each set of samples, in the order of the report.

    Every text of the report is escaped.
    """
    reports = report.get("reports", [report])
    names = [_short(single["samples"]["path"]) for single in reports]
    templates = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "class_score": _class_score,
        "count": _count,
        "short": _short,
        "spread": _spread,
        "value": _value,
    }
    page = templates.get_template("report.html.j2").render(
        title="mdt evaluate: " + ", ".join(names),
        heading=names[0] if len(names) == 1 else f"{len(names)} sets of samples side by side",
        comparison=report.get("comparison"),
        sets=[
            {
                "report": single,
                "figures": shown,
                "comparable": any(m.get("comparable_with") for m in single["metrics"].values()),
            }
            for single, shown in zip(reports, figures, strict=True)
        ],
        lower_is_better=lower_is_better,
        missing_classes=missing_classes,
        most_classes=MOST_CLASSES,
        stamp_of=stamp_of,
    )
    with atomic_path(path) as temporary:
        # Paths may hold bytes that are no UTF-8.
        temporary.write_text(page + "\n", "utf-8", errors="backslashreplace")


def stamp_of(report: Mapping[str, Any], name: str) -> str:
    """Which published tables a number may stand in, or why in none."""
    tables = report["metrics"][name].get("comparable_with", [])
    stamps = report["comparability"]
    if tables:
        keys = {"ADM": "adm_tables", "clean-fid": "clean_fid_tables"}
        terms = "; ".join(str(stamps[keys[table]]["provided_that"]) for table in tables)
        return f"{' and '.join(tables)} tables, provided that {terms}"
    if stamps["adm_tables"]["comparable"] or stamps["clean_fid_tables"]["comparable"]:
        return "neither: no published table of this protocol has this metric"
    reasons = [*stamps["adm_tables"]["why_not"], *stamps["clean_fid_tables"]["why_not"]]
    return "neither: " + "; ".join(dict.fromkeys(reasons))


def _class_score(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "too few" if score["samples"] else "no sample"
    error = score["standard_error"]
    return f"{score['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _value(value: float | None) -> str:
    return "exact" if value is None else f"{value:.5g}"


def _spread(metric: Mapping[str, Any]) -> str:
    interval = metric.get("interval")
    if interval:
        return f"{interval[0]:.4g} to {interval[1]:.4g}"
    spread = metric.get("standard_error") or metric.get("deviation")
    return f"± {spread:.2g}" if spread else ""


def _count(count: int | None) -> str:
    return f"{count:,}" if count is not None else "-"


def _short(path: str) -> str:
    """The last two parts of a path: enough to distinguish sets."""
    return "/".join(Path(path).parts[-2:])
