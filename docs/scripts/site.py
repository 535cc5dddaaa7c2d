"""MkDocs hook: pages that lie outside `docs/`, and links as they are on the site.

The documents link to each other by their places in the repository, where they are read as well.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

logger = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
_SOURCES = {uri: source for source, uri in PAGES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_ASSET = re.compile(r"""(?:\bsrc=|<link[^>]*href=)["']?((?:https?:)?//[^"'\s>]+)""")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside `docs/`."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _CODE.split(markdown)
    parts[::2] = [
        _LINK.sub(lambda link: _on_site(link, source, page.file.src_uri), text)
        for text in parts[::2]
    ]
    return "".join(parts)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Warn of what a browser would fetch from elsewhere."""
    for asset in _ASSET.findall(output):
        logger.warning("%s loads %s", page.file.src_uri, asset)
    return output


def _on_site(link: re.Match[str], source: str, uri: str) -> str:
    """The link from the page; of a file that is no page only its text stays."""
    mark, text, target, anchor = link.groups(default="")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if (page := PAGES.get(path)) is None:
        if not path.startswith("docs/"):
            return text if (ROOT / path).exists() else link[0]
        page = path.removeprefix("docs/")
    return f"{mark}[{text}]({os.path.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
