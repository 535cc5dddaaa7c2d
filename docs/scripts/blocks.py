"""Parts of a document that are written by a script, between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def replaced(text: str, name: str, content: str) -> str:
    """Return a document's text with `content` as its block of this name.

    Raises:
        ValueError: there is not exactly one such block.
    """
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, count = block.subn(lambda found: found[1] + content + found[2], text)
    if count != 1:
        raise ValueError(f"{count} blocks <!-- {name} -->")
    return text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
