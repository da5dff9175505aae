"""The report as one page of HTML: nothing outside the file is needed to read it."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.files import atomic_path
from mdt_cli.services.evaluate.comparison import lower_is_better
from mdt_cli.services.evaluate.details import missing_classes
from mdt_cli.services.evaluate.figures import Figure

STYLE = """
:root { --ink: #1d2327; --soft: #5d6b75; --line: #dde3e7; --good: #17683b; --odd: #8a5a00; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: #fff; max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .4rem; }
h1:not(:first-child) { margin-top: 3.2rem; }
h2 { font-size: 1.12rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.verdict { border-left: 4px solid var(--odd); background: #fbf7ee; padding: .6rem .9rem;
  margin: 1.1rem 0; } .verdict.good { border-color: var(--good); background: #eef7f1; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { font-weight: 600; color: var(--soft); font-size: .86rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.stamp { color: var(--soft); font-size: .86rem; }
.best { font-weight: 700; color: var(--good); } .best .soft { font-weight: 400; }
.tie { color: var(--good); }
figure { margin: .8rem 0 1.4rem; } img { max-width: 100%; height: auto; display: block;
  image-rendering: pixelated; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

Figures = Mapping[str, Sequence[Figure]]
PAGE = ".html"


def page_of(report: Path) -> Path:
    """The page beside a report. MdtError where both would be one file."""
    if report.suffix.lower() == PAGE:
        raise MdtError(
            f"--out {report} is the name of the page, which is written beside the report",
            f"name the report: --out {report.with_suffix('.json')}",
        )
    return report.with_suffix(PAGE)


def write_page(path: Path, report: Mapping[str, Any], figures: Sequence[Figures]) -> None:
    """`figures` are those of each set of samples, in the order of the report."""
    reports = report.get("reports", [report])
    if "comparison" in report:
        title = f"{len(reports)} sets of samples side by side"
        parts = [_heading(title, reports[0]), _comparison(report)]
        for single, pictures in zip(reports, figures, strict=True):
            parts.append(f"<h1>{escape(_name(single['samples']['path']))}</h1>")
            parts.append(_one(single, pictures))
    else:
        parts = [_heading(_name(report["samples"]["path"]), report), _one(report, figures[0])]
    parts.append(_facts(reports))
    body = "\n".join(parts)
    with atomic_path(path) as temporary:
        temporary.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(parts_title(report))}</title><style>{STYLE}</style></head>"
            f"<body>\n{body}\n</body></html>\n",
            "utf-8",
            errors="backslashreplace",
        )


def parts_title(report: Mapping[str, Any]) -> str:
    reports = report.get("reports", [report])
    return "mdt evaluate: " + ", ".join(_name(single["samples"]["path"]) for single in reports)


def stamp_of(report: Mapping[str, Any], name: str) -> str:
    """Which published tables a number may stand in, or why in none."""
    tables = report["metrics"][name].get("comparable_with", [])
    told = report["comparability"]
    if tables:
        keys = {"ADM": "adm_tables", "clean-fid": "clean_fid_tables"}
        terms = "; ".join(str(told[keys[table]]["provided_that"]) for table in tables)
        return f"{' and '.join(tables)} tables, provided that {terms}"
    if told["adm_tables"]["comparable"] or told["clean_fid_tables"]["comparable"]:
        return "neither: no published table of this protocol has this metric"
    reasons = [*told["adm_tables"]["why_not"], *told["clean_fid_tables"]["why_not"]]
    return "neither: " + "; ".join(dict.fromkeys(reasons))


def _heading(title: str, report: Mapping[str, Any]) -> str:
    reference, extractor = report["reference"], report["extractor"]
    count = f"{reference['count']:,} images" if reference["count"] else "unknown count"
    return (
        f"<h1>{escape(title)}</h1>"
        f"<p>Scored against <code>{escape(reference['path'])}</code> ({count}) with "
        f"{escape(extractor['id'])}, resizing {escape(extractor['resize'])}.</p>"
    )


def _comparison(report: Mapping[str, Any]) -> str:
    comparison = report["comparison"]
    rows = []
    for name, compared in comparison["metrics"].items():
        cells = []
        for index, (value, single) in enumerate(
            zip(compared["values"], report["reports"], strict=True)
        ):
            kind = (
                "best"
                if index == compared["best"]
                else ("tie" if index in compared["ties_with_best"] else "")
            )
            mark = {"best": " ★", "tie": " ="}.get(kind, "")
            cells.append(
                f'<td class="n {kind}">{value:.5g}{mark}{_spread(single["metrics"][name])}</td>'
            )
        rows.append(f"<tr><td>{_metric(name)}</td>{''.join(cells)}</tr>")
    heads = "".join(f'<th class="n">{escape(_name(path))}</th>' for path in comparison["sets"])
    cautions = "".join(f'<p class="verdict">{escape(text)}</p>' for text in comparison["cautions"])
    return (
        f'{cautions}<div class="wide"><table><tr><th>metric</th>{heads}</tr>{"".join(rows)}'
        '</table></div><p class="soft">★ best; = a tie: the difference from the best is '
        "within its error; no mark where the counts or a missing error decide. "
        "↓ lower is better, ↑ higher.</p>"
    )


def _one(report: Mapping[str, Any], figures: Figures) -> str:
    good = any(metric.get("comparable_with") for metric in report["metrics"].values())
    verdict = escape(report["comparability"]["verdict"])
    parts = [f'<p class="verdict{" good" if good else ""}">{verdict}</p>']
    parts += [f'<p class="verdict">{escape(text)}</p>' for text in report.get("warnings", ())]
    rows = "".join(
        f"<tr><td>{_metric(name)}</td>"
        f'<td class="n">{_value(metric["value"])}{_spread(metric)}</td>'
        f'<td class="n">{_count(metric["samples"])}</td>'
        f'<td class="n">{_count(metric["reference"])}</td>'
        f'<td class="stamp">{escape(stamp_of(report, name))}</td></tr>'
        for name, metric in report["metrics"].items()
    )
    parts.append(
        '<div class="wide"><table><tr><th>metric</th><th class="n">value</th>'
        '<th class="n">samples</th><th class="n">reference</th>'
        f"<th>comparable with</th></tr>{rows}</table></div>"
    )
    parts += ["<h2>Images</h2>", *map(_figure, figures["samples"])]
    if "nearest" in figures:
        parts += ["<h2>Nearest neighbours</h2>", *map(_figure, figures["nearest"])]
        parts.append(f'<p class="soft">{escape(report["nearest"]["note"])}</p>')
    if "classes" in report:
        parts += ["<h2>Classes, worst first</h2>", _classes(report["classes"])]
        parts += map(_figure, figures.get("classes", ()))
    return "\n".join(parts)


def _classes(told: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(score['name'])}</td>"
        f'<td class="n">{_class_score(score)}</td><td class="n">{_count(score["samples"])}</td>'
        f'<td class="n">{_count(score["reference"])}</td></tr>'
        for score in told["scores"][:50]
    )
    hidden = len(told["scores"]) - 50
    more = f"<p>{hidden} further classes are in the JSON report.</p>" if hidden > 0 else ""
    missing, without = missing_classes(told), ""
    if missing:
        names = escape(", ".join(missing))
        without = f"<p>{len(missing)} classes of the reference have no sample: {names}.</p>"
    return (
        f'<p class="soft">{escape(told["rule"])}</p>{without}'
        '<div class="wide"><table><tr><th>class</th>'
        '<th class="n">score ↓</th><th class="n">samples</th><th class="n">reference</th></tr>'
        f"{rows}</table></div>{more}"
    )


def _class_score(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "too few" if score["samples"] else "no sample"
    error = score["standard_error"]
    return f"{score['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _figure(figure: Figure) -> str:
    caption = escape(figure.caption)
    return (
        f'<figure><img src="{figure.address}" width="{figure.width}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _facts(reports: Sequence[Mapping[str, Any]]) -> str:
    first = reports[0]
    entries = [
        ("extractor", f"{first['extractor']['id']}, {first['extractor']['dimensions']} features"),
        ("its weights", f"SHA-256 {first['extractor']['weights_sha256']}"),
        ("resizing", first["extractor"]["resize_rule"]),
        ("reference digest", str(first["reference"]["digest"])),
    ]
    if "stored_statistics_sha256" in first["reference"]:
        entries.append(
            ("reference file", f"SHA-256 {first['reference']['stored_statistics_sha256']}")
        )
    entries += [
        (f"digest of {_name(single['samples']['path'])}", str(single["samples"]["digest"]))
        for single in reports
    ]
    entries += [("software", ", ".join(f"{k} {v}" for k, v in first["software"].items()))]
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries)
    return f"<h2>How the numbers came to be</h2><dl>{told}</dl>"


def _metric(name: str) -> str:
    """With its direction, which stays on its line."""
    return f"{escape(name)}&nbsp;{'↓' if lower_is_better(name) else '↑'}"


def _value(value: float | None) -> str:
    return "exact" if value is None else f"{value:.5g}"


def _spread(metric: Mapping[str, Any]) -> str:
    interval = metric.get("interval")
    if interval:
        return f'<br><span class="soft">{interval[0]:.4g} to {interval[1]:.4g}</span>'
    spread = metric.get("standard_error") or metric.get("deviation")
    return f'<br><span class="soft">± {spread:.2g}</span>' if spread else ""


def _count(count: int | None) -> str:
    return f"{count:,}" if count is not None else "-"


def _name(path: str) -> str:
    """The last two parts of a path: enough to tell sets apart."""
    return "/".join(Path(path).parts[-2:])
