"""The documents name files and tests that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from docs.scripts import demo, speed
from docs.scripts.tables import SETTINGS, documents, with_tables

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


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git knows what is ignored")
def test_folders_that_the_readme_makes_are_ignored_by_git() -> None:
    made = re.findall(r"--out ([\w-]+)|\bout=\"([\w-]+)\"", (ROOT / "README.md").read_text())
    names = {first or second for first, second in made} | {"answers.old-20260101-120000"}

    words = ["git", "check-ignore", *(f"{name}/" for name in sorted(names))]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout

    assert set(said.split()) == {f"{name}/" for name in names}


def test_the_tables_of_settings_and_columns_say_what_the_code_says() -> None:
    texts = {path.name: path.read_text() for path in documents()}

    assert {found[1] for text in texts.values() for found in SETTINGS.findall(text)} == {
        "GenerationRequest",
        "RunBounds",
        "SchedulerConfig",
        "Selection",
        "Template",
        "VideoParams",
    }
    for name, text in texts.items():
        assert with_tables(text) == text, f"{name}: run `make docs`"


def test_the_chart_and_the_figures_are_those_measured() -> None:
    for path, text in speed.written().items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


def test_every_figure_stands_in_the_tables_of_its_benchmark() -> None:
    tables = speed.BENCHMARKS.read_text().partition("## overhead.py")[2]

    for group in speed.measured()["against_mlx_lm"]:
        for each in group["workloads"]:
            ours, theirs = f"{each['ours_s']:g} s", f"{each['mlx_lm_s']:g} s"
            assert re.search(rf"\| `{each['name']}` \|.*{ours}.*{theirs}", tables), each


def test_a_target_that_was_missed_is_told_wherever_figures_are_quoted() -> None:
    figures = speed.measured()
    missed = [row for row in speed.all_figures(figures) if not row[3]]

    assert missed
    for what, measured, target, _ in missed:
        assert f"- {what}: {measured} (target {target})" in speed.summary(figures)
        assert f"| {what} | {measured} | {target} | **missed** |" in speed.targets(figures)
    assert speed.chart(figures).count(": missed") == 1


def test_the_picture_shows_the_first_command_of_the_readme() -> None:
    shown = demo.PICTURE.read_text().replace("&#160;", " ")

    assert f"$ {' '.join(demo.command())}" in shown
    assert "64/64" in shown
    assert "tokens/s" in shown


def test_rows_of_the_readme_are_cut_between_words() -> None:
    assert demo.cut("a word  and\nmore", 15) == "a word and more"
    assert demo.cut("a word and more", 12) == "a word and …"
    assert demo.cut("a word and more"[::-1], 12)[::-1] == "… and more"
    table = demo.README.read_text().partition("<!-- rows -->")[2].partition("<!-- end -->")[0]
    assert table.count("…") >= 2


def test_pictures_load_nothing_from_elsewhere() -> None:
    for picture in (ROOT / "docs" / "images").glob("*.svg"):
        text = picture.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL), picture.name
