"""Run the README's first command, draw what the terminal shows, and copy three of its rows.

python -m docs.scripts.demo
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

import polars as pl
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from docs.scripts.blocks import ROOT, replaced, table
from worker.cli.summary import said_to

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "run.svg"
COLUMNS = 100
# The fonts of rich's template come from a server.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
ROWS = ("id", "text", "finish_reason", "prompt_tokens", "completion_tokens", "category")


def command() -> list[str]:
    """Return the command whose output is shown: the README's first one of `mlx-batch`."""
    found = re.search(r"^mlx-batch run .*$", README.read_text(), re.MULTILINE)
    assert found
    return shlex.split(found[0])


def ran(words: list[str], folder: Path) -> str:
    """Run a command on a terminal of its own and return what it wrote, with colors."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        shown = {"PATH": path, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        os.execvpe(words[0], words, os.environ | shown)
    written = b""
    while chunk := _read(terminal):
        written += chunk
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(written.decode())
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so at the end
        return b""


def picture(words: list[str], written: str, folder: Path) -> str:
    """Return the terminal as SVG: each line as it was last drawn."""
    lines = screen(written.replace(f"{folder}/", ""))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"[bold]$ {shlex.join(words)}[/]", highlight=False)
    for line in filter(None, lines):
        console.print(Text.from_ansi(line))
    return console.export_svg(title="mlx-batch", code_format=TEMPLATE, unique_id="run")


def screen(written: str) -> list[str]:
    """Return the lines of the terminal in the end, after all that was drawn over others."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[1A|\x1b\[2K|\r\n|\r)", written):
        if part == "\x1b[1A":
            at -= 1
        elif part == "\r\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif part in ("\r", "\x1b[2K"):
            lines[at] = ""
        else:
            lines[at] += part
    return [re.sub(r"\x1b\[\?\d+[hl]", "", line) for line in lines]


def three_rows(dataset: Path) -> str:
    """Return the first rows as a Markdown table: what was asked, and some columns."""
    frame = pl.read_parquet(dataset / "data" / "*.parquet").head(3)
    rows = [
        [_cell(cut(said_to(row)[::-1])[::-1]), *(_cell(cut(str(row[name]))) for name in ROWS)]
        for row in frame.to_dicts()
    ]
    return table(["asked", *(f"`{name}`" for name in ROWS)], rows)


def cut(text: str, width: int = 90) -> str:
    """Return as many words as fit, with an ellipsis where some do not."""
    return textwrap.shorten(text, width, placeholder=" …")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    words = command()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        shutil.copytree(ROOT / "examples", folder / "examples")
        PICTURE.write_text(picture(words, ran(words, folder), folder))
        out = folder / words[words.index("--out") + 1]
        README.write_text(replaced(README.read_text(), "rows", three_rows(out)))


if __name__ == "__main__":
    main()
