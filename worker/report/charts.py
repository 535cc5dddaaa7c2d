"""`Chart`: a picture of figures, drawn by Vega-Lite as SVG: the page needs no script for it.

Its colors are the page's CSS variables, which Vega-Lite passes through, for light and dark alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jobs.wording import counted
from worker.report.distribution import Distribution
from worker.report.figures import OTHERS, Figures, Slice

_WIDTH, _HEIGHT, _BAR = 470, 170, 22
_LONGEST = 60  # characters of a label
_PALETTE = [f"var(--c{number})" for number in range(1, 9)]
_ENDED = "How rows ended"
_SHORT = {"labelExpr": "datum.value >= 1e4 ? format(datum.value, '~s') : datum.label"}
_UP = {"tickCount": 4, **_SHORT}
_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": 150,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 11,
        "labelLimit": 160,
        "orient": "top",
        "title": None,
        "symbolType": "square",
    },
    "bar": {"color": "var(--c1)"},
}


class Chart(NamedTuple):
    """A title, the picture, and what is to be said below it.

    Attributes:
        is_wide: it takes the whole width of the page.
    """

    title: str
    svg: str
    note: str = ""
    is_wide: bool = False


def charts_of(figures: Figures) -> list[Chart]:
    """Return the charts that there is something to draw in.

    Raises:
        ImportError: vl-convert is not installed.
    """
    drawn = [_bars(_ENDED, figures.finish_reasons.items())]
    for title, distribution, unit in (
        ("Latency, waiting included", figures.latency, "seconds"),
        ("Prompt tokens", figures.prompt_tokens, "tokens"),
        ("Answer tokens", figures.completion_tokens, "tokens"),
    ):
        if distribution:
            drawn.append(_histogram(title, distribution, unit))
    if figures.slices:
        drawn.append(_over_time("Answer tokens per second", figures.slices, "tokens"))
        drawn.append(_over_time("Rows per second", figures.slices, "rows"))
    return drawn


def label_charts(figures: Figures) -> list[Chart]:
    """Return a chart for each field of constrained answers that repeats itself or is a number.

    Raises:
        ImportError: vl-convert is not installed.
    """
    drawn = []
    for field in figures.labels:
        if numbers := field.numbers:
            drawn.append(_histogram(field.name, numbers, ""))
        elif labels := field.labels:
            drawn.append(_bars(field.name, labels, f"{field.values:,} values"))
    return drawn


def _render(spec: dict[str, Any]) -> str:
    from vl_convert import vegalite_to_svg  # a script engine, which takes a moment to start

    svg: str = vegalite_to_svg(
        json.dumps(
            {"config": _CONFIG, "autosize": {"type": "fit-x", "contains": "padding"}, **spec}
        ),
        allowed_base_urls=[],
    )
    return svg


def _bars(title: str, counted: Iterable[tuple[str, int]], note: str = "") -> Chart:
    rows = list(counted)
    total = sum(count for _, count in rows) or 1
    values = [
        {
            "label": _clipped(label, place) or "(empty)",
            "color": "var(--bad)" if (title, label) == (_ENDED, "error") else "var(--c1)",
            "rows": count,
            "number": f"{count:,}",
            "said": f"{label[:300] or '(empty)'}: {count:,} of {total:,} ({count / total:.1%})",
        }
        for place, (label, count) in enumerate(rows)
    ]
    order = [value["label"] for value in values]
    y = {"field": "label", "type": "nominal", "sort": order, "title": None}
    spec = {
        "data": {"values": values},
        "width": _WIDTH,
        "height": {"step": _BAR},
        "encoding": {
            "y": {**y, "axis": {"domain": False, "ticks": False, "labelColor": "var(--ink)"}},
            "x": {
                "field": "rows",
                "type": "quantitative",
                "axis": None,
                "scale": {"domain": [0, max(count for _, count in rows) * 1.15]},
            },
            "description": {"field": "said", "type": "nominal"},
            "fill": {"field": "color", "type": "nominal", "scale": None},
        },
        "layer": [
            {"mark": {"type": "bar", "height": {"band": 0.72}, "cornerRadiusEnd": 3}},
            {
                "mark": {
                    "type": "text",
                    "align": "left",
                    "dx": 5,
                    "aria": False,
                },
                "encoding": {
                    "text": {"field": "number", "type": "nominal"},
                    "fill": {"value": "var(--muted)"},
                },
            },
        ],
    }
    return Chart(title, _render(spec), note)


def _histogram(title: str, numbers: Distribution, unit: str) -> Chart:
    values = [
        {
            "start": each.start,
            "end": each.end,
            "rows": each.rows,
            "said": f"{_range(each.start, each.end, unit)}: {counted(each.rows, 'row')}",
        }
        for each in numbers.bins()
    ]
    spec = {
        "data": {"values": values},
        "width": _WIDTH,
        "height": _HEIGHT,
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {
                "field": "start",
                "bin": "binned",
                "type": "quantitative",
                "title": unit or None,
                "axis": {"grid": False, "tickCount": 8, **_SHORT},
                "scale": {"zero": False, "nice": False},
            },
            "x2": {"field": "end"},
            "y": {"field": "rows", "type": "quantitative", "title": None, "axis": _UP},
            "description": {"field": "said", "type": "nominal"},
        },
    }
    said = {share: numbers.quantile(share) for share in (0.5, 0.9, 0.99)}
    note = (
        f"half have at most {said[0.5]:,.6g}, 90 % {said[0.9]:,.6g}, 99 % {said[0.99]:,.6g}; "
        f"{numbers.least:,.6g} to {numbers.most:,.6g}"
    )
    return Chart(title, _render(spec), note)


def _over_time(title: str, slices: Sequence[Slice], what: str) -> Chart:
    names = list(dict.fromkeys(each.worker for each in slices if each.worker != OTHERS))
    names += [OTHERS] * any(each.worker == OTHERS for each in slices)
    values = [
        {
            "start": each.start.isoformat(),
            "end": each.end.isoformat(),
            "worker": each.worker,
            "speed": getattr(each, what),
            "said": f"{each.start:%H:%M:%S}, {each.worker}: {getattr(each, what):,.4g} {what}/s",
        }
        for each in slices
    ]
    spec = {
        "data": {"values": values},
        "width": 2 * _WIDTH + 40,
        "height": _HEIGHT,
        "transform": [{"stack": "speed", "groupby": ["start"], "as": ["from", "to"]}],
        "mark": {"type": "rect", "stroke": "var(--card)", "strokeWidth": 1},
        "encoding": {
            "x": {
                "field": "start",
                "type": "temporal",
                "scale": {"type": "utc", "nice": False},
                "title": "time (UTC)",
                "axis": {
                    "grid": False,
                    "tickCount": 8,
                    "format": _clock(slices),
                    "labelFlush": False,
                    "labelOverlap": True,
                },
            },
            "x2": {"field": "end"},
            "y": {"field": "from", "type": "quantitative", "title": None, "axis": _UP},
            "y2": {"field": "to"},
            "fill": {
                "field": "worker",
                "type": "nominal",
                "scale": {"domain": names, "range": _PALETTE},
                "legend": {} if len(names) > 1 else None,
            },
            "description": {"field": "said", "type": "nominal"},
        },
    }
    return Chart(title, _render(spec), is_wide=True)


def _clipped(label: str, place: int) -> str:
    """Return a label that is not too long, and differs from those that begin alike."""
    return label if len(label) <= _LONGEST else f"{label[:_LONGEST]}… ({place + 1})"


def _clock(slices: Sequence[Slice]) -> str:
    span = (slices[-1].end - slices[0].start).total_seconds()
    return "%H:%M:%S" if span < 300 else "%H:%M" if span < 86_400 else "%d %b %H:%M"


def _range(start: float, end: float, unit: str) -> str:
    if float(start).is_integer() and end == start + 1:
        return f"{start:,.0f} {unit}".rstrip()
    return f"{start:,.6g} up to {end:,.6g} {unit}".rstrip()
