"""Draw the chart against mlx-lm and write the figures, from `benchmarks/measured.json`.

python -m docs.scripts.speed
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from docs.scripts.blocks import ROOT, replaced, table

MEASURED = ROOT / "benchmarks" / "measured.json"
CHART = ROOT / "docs" / "images" / "speed.svg"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks" / "README.md"

LEFT, WIDTH, ROW, MOST = 90, 760, 30, 13  # pixels; the last one is the scale's end, in times
UNIT = (WIDTH - LEFT - 210) / MOST
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #57606a }
.head { font-weight: 600 }
.met { fill: #2f6feb } .missed { fill: #d1862c } .peer { fill: #8c959f }
.target { stroke: #8c959f; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
"""


def measured() -> dict[str, Any]:
    """Return the figures, as they were measured."""
    figures: dict[str, Any] = json.loads(MEASURED.read_text())
    return figures


def times(workload: dict[str, Any]) -> float:
    """How many times as fast as mlx-lm we are."""
    return float(workload["mlx_lm_s"] / workload["ours_s"])


def chart(figures: dict[str, Any]) -> str:
    """Return an SVG: a bar for each workload, beside mlx-lm's of length 1, and its target."""
    parts: list[str] = []
    y = 24
    for group in figures["against_mlx_lm"]:
        parts.append(f'<text class="head" x="4" y="{y}">{escape(group["on"])}</text>')
        for workload in group["workloads"]:
            parts.append(_bar(workload, y + 12))
            y += ROW
        y += 2 * ROW
    legend = "tokens/s as multiples of mlx-lm's (grey); | is the target, orange missed it"
    parts.append(f'<text x="4" y="{y - 12}">{legend}</text>')
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<style>\n{STYLE}</style>", *parts, "</svg>\n"])


def _bar(workload: dict[str, Any], y: int) -> str:
    ratio, target = times(workload), workload["target"]
    kind, note = ("met", "") if ratio >= target else ("missed", f", target {target:g}: missed")
    mark = LEFT + target * UNIT
    return (
        f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{workload["name"]}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{ratio * UNIT:.1f}" height="14"/>'
        f'<rect class="peer" x="{LEFT}" y="{y + 14}" width="{UNIT:.1f}" height="5"/>'
        f'<line class="target" x1="{mark:.1f}" x2="{mark:.1f}" y1="{y - 3}" y2="{y + 17}"/>'
        f'<text x="{LEFT + max(ratio, target) * UNIT + 8:.1f}" y="{y + 12}">'
        f"{ratio:.1f} times{note}</text>"
    )


def summary(figures: dict[str, Any]) -> str:
    """Return the README's paragraph: the ratios, and every target that was missed."""
    groups = []
    for group in figures["against_mlx_lm"]:
        ratios = [f"{times(each):.1f} times on `{each['name']}`" for each in group["workloads"]]
        groups.append(f"{group['on']}: {', '.join(ratios)}")
    workloads = [f"`{name}`: {about}" for name, about in figures["workloads"].items()]
    missed = [
        f"{what}: {said} (target {target})"
        for what, said, target, met in all_figures(figures)
        if not met
    ]
    families = [
        f"{it['what']}: {it['measured']}"
        for it in figures["others"]
        if it["met"] and "times mlx" in it["what"]
    ]
    lines = [
        "Tokens per second against mlx-lm's `BatchGenerator` at its best width:\n",
        *(f"- {each}" for each in [*groups, *families]),
        f"\n{'; '.join(workloads)}.\n\nTargets that were missed:\n",
        *(f"- {each}" for each in missed),
    ]
    return "\n".join(lines) + "\n"


def targets(figures: dict[str, Any]) -> str:
    """Return the table of all targets."""
    rows = [[*row, "yes" if met else "**missed**"] for *row, met in all_figures(figures)]
    return table(["What", "Measured", "Target", "Met"], rows)


def all_figures(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Every figure that has a target: what it is, as measured, its target, whether it is met."""
    against = [
        (
            f"{group['on']}: `{each['name']}`, times mlx-lm's tokens/s",
            f"{times(each):.1f}",
            f"≥ {each['target']:g}",
            times(each) >= each["target"],
        )
        for group in figures["against_mlx_lm"]
        for each in group["workloads"]
    ]
    others = figures["others"]
    return against + [(it["what"], it["measured"], it["target"], it["met"]) for it in others]


def written() -> dict[Any, str]:
    """Return what belongs into each file."""
    figures = measured()
    return {
        CHART: chart(figures),
        README: replaced(README.read_text(), "speed", summary(figures)),
        BENCHMARKS: replaced(BENCHMARKS.read_text(), "targets", targets(figures)),
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text)
