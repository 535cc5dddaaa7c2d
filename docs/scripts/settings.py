"""Write the tables of settings in the documents from the fields that they are about.

    python -m docs.scripts.settings

A table stands between `<!-- settings: CLASS [FIELD ...] -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from jobs.requests import GenerationRequest
from vllm_mlx.parameters import settings_of
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams

ROOT = Path(__file__).parents[2]
CLASSES = {
    each.__name__: each
    for each in (GenerationRequest, SamplingParams, SchedulerConfig, VideoParams)
}
TABLE = re.compile(r"(<!-- settings: (\w+)([\w ]*) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| Name | What it does | Type | Range | Default |\n|---|---|---|---|---|\n"


def documents() -> list[Path]:
    """Return every document whose tables are kept up to date."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_tables(text: str) -> str:
    """Return a document's text with every table as the fields are now."""
    return TABLE.sub(lambda found: found[1] + _table(found[2], found[3].split()) + found[4], text)


def _table(class_name: str, names: list[str]) -> str:
    settings = settings_of(CLASSES[class_name])
    rows = [settings[name] for name in names or settings]
    return HEAD + "".join(
        f"| `{row.name}` | {row.help} | {row.type} | {row.range} | {row.default} |\n"
        for row in rows
    )


if __name__ == "__main__":
    for path in documents():
        path.write_text(with_tables(path.read_text()))
