"""The documents name files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.scripts.settings import TABLE, documents, with_tables

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_it_names_is_there(document: Path) -> None:
    named = re.findall(
        r"`((?:tests|jobs|worker|vllm_mlx|docs)/[\w/.-]+)(?:::(\w+))?", document.read_text()
    )

    for path, test in named:
        assert (ROOT / path).exists(), f"{path} is not there"
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_its_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{target} is not there"


def test_the_tables_of_settings_say_what_the_fields_say() -> None:
    texts = {path.name: path.read_text() for path in documents()}

    assert sum(len(TABLE.findall(text)) for text in texts.values()) >= 2
    for name, text in texts.items():
        assert with_tables(text) == text, f"{name}: run `make docs`"
