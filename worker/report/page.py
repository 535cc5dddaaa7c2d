"""`page`: the HTML of a report, which needs nothing but itself."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs.wording import spelled
from vllm_mlx import __version__
from worker.report.charts import charts_of, label_charts
from worker.report.figures import Figures

_HERE = Path(__file__).parent
_NO_CHARTS = "Charts need vl-convert: pip install 'mlx-batch[report]'"


class Tile(NamedTuple):
    """A number that stands out."""

    name: str
    value: str
    note: str = ""
    is_bad: bool = False


def page(
    title: str,
    manifest: Mapping[str, Any],
    figures: Figures,
    rows: list[dict[str, Any]],
    pictures: list[str],
    *,
    warnings: Iterable[str],
    rows_note: str,
) -> str:
    """Return the page.

    Args:
        rows: as its script reads them.
        pictures: as data URLs, which rows name by their place.
        warnings: what is to be known before all else.
        rows_note: which of the rows these are.
    """
    css, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    try:
        charts, labels, charts_missing = charts_of(figures), label_charts(figures), ""
    except ImportError:
        charts, labels, charts_missing = [], [], _NO_CHARTS
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=title,
        model=manifest["model"],
        when=str(manifest.get("created_at", ""))[:16].replace("T", " "),
        warnings=list(warnings),
        tiles=_tiles(figures),
        error_groups=figures.error_groups,
        labels=labels,
        unlabelled=_unlabelled(figures) if not charts_missing else [],
        charts=charts,
        charts_missing=charts_missing,
        workers=_workers(figures),
        rows_note=rows_note,
        facts=_facts(manifest),
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        version=__version__,
        css=Markup(css),
        script=Markup(script),
        data=_data({"rows": rows, "pictures": pictures}),
        policy=_policy(css, script),
    )


def _policy(css: str, script: str) -> str:
    """Return the content security policy: this style, this script and no other."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _data(value: Any) -> Markup:
    """Return JSON that no HTML can begin in."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(written)


def _tiles(figures: Figures) -> list[Tile]:
    rows, errors = figures.rows, figures.errors
    tiles = [
        Tile("rows", f"{rows:,}"),
        Tile("answered", f"{rows - errors:,}", f"{(rows - errors) / rows:.1%}"),
        Tile("in error", f"{errors:,}", f"{errors / rows:.1%}" if errors else "", errors > 0),
    ]
    if figures.incomplete:
        tiles.append(
            Tile("incomplete", f"{figures.incomplete:,}", "constrained answer not whole", True)
        )
    tokens = figures.completion_tokens.total
    tiles += [
        Tile("prompt tokens", f"{figures.prompt_tokens.total:,}"),
        Tile("answer tokens", f"{tokens:,}"),
    ]
    if seconds := figures.seconds:
        tiles += [
            Tile("answer tokens/s", f"{tokens / seconds:,.1f}", "breaks included"),
            Tile("first row to last", spelled(seconds)),
        ]
    return tiles


def _workers(figures: Figures) -> list[dict[str, str]]:
    return [
        {
            "name": each.name,
            "rows": f"{each.rows:,}",
            "tokens": f"{each.tokens:,}",
            "speed": f"{each.tokens_per_second:,.1f}",
            "first": _clock(each.first),
            "last": _clock(each.last),
        }
        for each in figures.workers
    ]


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _unlabelled(figures: Figures) -> list[str]:
    return [
        f"{field.name}: hardly a value stands twice, so they are not counted here."
        for field in figures.labels
        if field.labels is None and field.numbers is None
    ]


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    given = manifest.get("input") or {}
    template = manifest.get("template") or {}
    facts = {
        "Run": manifest["run_id"],
        "Model": manifest["model"],
        "Revision": manifest.get("revision"),
        "Input": given.get("path"),
        "Settings": _settings(manifest.get("sampling") or {}),
        "Template": _settings(template),
        "Versions": _settings(manifest.get("versions") or {}),
        "Parts": manifest["shards"],
    }
    return {name: str(value) for name, value in facts.items() if value}


def _settings(given: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in given.items()
        if value not in (None, [], {}, "")
    )
