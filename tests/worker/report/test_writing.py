"""The report: what it says of all rows, which rows it holds, and how large it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.dataset import Dataset
from jobs.errors import DatasetError
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine
from tests.helpers.reported import answer, mixed, row, write_dataset
from vllm_mlx.outputs import GenerationOutput
from worker.cli.app import main
from worker.report import write_report
from worker.report.columns import Columns
from worker.report.figures import Figures
from worker.status.status import run_status

FIVE_MB = 5_000_000


class Tags(HTMLParser):
    """The tags of a page, and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += attrs


def html_of(root: Path) -> str:
    return write_report(root).read_text(encoding="utf-8")


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def figures_of(root: Path) -> Figures:
    manifest = Dataset(root).manifest()
    return Figures.of(Columns(root), manifest)


def table_of(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(root / "data").to_table().to_pylist()
    return rows


def test_the_command_writes_it_into_the_dataset(tmp_path: Path) -> None:
    root = mixed(tmp_path / "films")

    result = CliRunner().invoke(main, ["report", str(root)], catch_exceptions=False)

    assert result.exit_code == 0
    assert result.stdout == f"{root}/_job/report.html\n"
    assert "<h1>films</h1>" in (root / "_job" / "report.html").read_text()
    elsewhere = tmp_path / "elsewhere.html"
    CliRunner().invoke(main, ["report", str(root), "--out", str(elsewhere)], catch_exceptions=False)
    assert "<h1>films</h1>" in elsewhere.read_text()
    assert Dataset(root).is_whole(3)


def test_it_lets_only_itself_run_and_fetches_nothing(tmp_path: Path) -> None:
    html = html_of(mixed(tmp_path / "out"))

    found = re.search(r'Content-Security-Policy" content="(.*?)">', html)
    assert found
    policy = found[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", html, re.S)
        assert inside
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    tags = Tags()
    tags.feed(html)
    assert tags.count["script"] == 2
    assert not tags.count.keys() & {"img", "link", "iframe", "object", "base", "image", "use"}
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    targets = [value or "" for name, value in tags.attributes if name in ("src", "href")]
    assert targets
    assert all(each.startswith("#") for each in targets)


def test_the_figures_are_those_of_the_parquet(tmp_path: Path) -> None:
    root = mixed(tmp_path / "out")
    rows = table_of(root)
    figures = figures_of(root)
    answered = [each for each in rows if each["finish_reason"] != "error"]

    assert figures.finish_reasons == Counter(each["finish_reason"] for each in rows)
    assert {group.error_type: group.rows for group in figures.error_groups} == {
        "ValueError": 3,
        "KeyError": 1,
    }
    assert figures.incomplete == 1
    for name in ("prompt_tokens", "completion_tokens"):
        told = getattr(figures, name)
        assert told.total == sum(each[name] for each in answered)
        assert sum(each.rows for each in told.bins()) == told.rows == len(answered)
        values = sorted(each[name] for each in answered)
        assert told.quantile(0.5) == values[(len(values) - 1) // 2]
    assert figures.latency.most == 3.5
    (said,) = figures.labels
    assert said.counted == Counter(each["text"] for each in answered if each["complete"])


def test_speed_is_told_over_time_and_by_worker(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "out", [row(position) for position in range(600)], shards=4)
    rows = table_of(root)
    figures = figures_of(root)

    told = {worker.name: worker for worker in figures.workers}
    for name in ("alpha", "beta"):
        own = [each for each in rows if each["worker"] == name]
        tokens = sum(each["completion_tokens"] for each in own)
        assert (told[name].rows, told[name].tokens) == (len(own), tokens)
        slices = [each for each in figures.slices if each.worker == name]
        width = (slices[0].end - slices[0].start).total_seconds()
        assert sum(each.tokens * width for each in slices) == pytest.approx(tokens)
        assert sum(each.rows * width for each in slices) == pytest.approx(len(own))
    assert len(figures.slices) > 50
    begun = min(each["finished_at"] - timedelta(seconds=each["latency_s"]) for each in rows)
    ended = max(each["finished_at"] for each in rows)
    assert figures.seconds == pytest.approx((ended - begun).total_seconds())


def test_a_dataset_without_times_has_no_speed(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "out", [row(position) for position in range(6)])
    part = root / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["finished_at"]), part)

    html = html_of(root)

    assert "per second" not in html
    assert len(data_of(html)["rows"]) == 6


def test_every_row_of_a_small_dataset_is_there(tmp_path: Path) -> None:
    root = mixed(tmp_path / "out")
    html = html_of(root)
    shown = data_of(html)["rows"]

    assert [each["id"] for each in shown] == [each["id"] for each in table_of(root)]
    assert shown[5]["asked"] == [["user", "question 5"]]
    assert shown[5]["given"] == {"topic": "film"}
    assert "All 60 rows." in html
    assert "Unfinished" not in html


def test_of_a_large_dataset_some_rows_of_all_places_and_errors(tmp_path: Path) -> None:
    rows = [row(position) for position in range(3000)]
    rare = GenerationOutput.from_error(OSError("once"))
    often = GenerationOutput.from_error(ValueError("often"))
    rows[1501] = replace(rows[1501], output=rare)
    rows[10:800:2] = [replace(each, output=often) for each in rows[10:800:2]]
    root = write_dataset(tmp_path / "out", rows, shards=15)

    html = html_of(root)
    shown = data_of(html)["rows"]

    assert 800 <= len(shown) <= 1000
    assert f"{len(shown):,} of 3,000 rows" in html
    assert "row-1501" in {each["id"] for each in shown}
    places = Counter(each["row"] // 500 for each in shown)
    assert min(places.values()) > 90
    assert figures_of(root).errors == 396


def test_it_stays_below_five_megabytes(tmp_path: Path) -> None:
    texts = [f"{position} " + "langer Text – 答案 🎉 <b> " * 400 for position in range(300)]
    rows = [row(at, answer(at, text), prompt=text) for at, text in enumerate(texts)]
    root = write_dataset(tmp_path / "out", rows)

    html = html_of(root)

    assert len(html.encode()) < FIVE_MB
    assert 100 <= len(data_of(html)["rows"]) < 300
    assert "characters in all)" in html


def test_a_run_that_has_not_ended_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    rows = [row(position) for position in range(40)]
    root = write_dataset(tmp_path / "out", rows, shards=4, parts=[0, 2])

    html = html_of(root)

    assert "Unfinished: 20 of 40 rows are here, and 2 of 4 parts are whole." in html
    assert len(data_of(html)["rows"]) == 20


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "_job" / "manifest.json").unlink(), "no mlx-batch dataset"),
        (lambda root: [part.unlink() for part in (root / "data").iterdir()], "no rows yet"),
        (
            lambda root: next((root / "data").iterdir()).write_bytes(b"PAR1 no PAR1"),
            "`mlx-batch verify` says which part",
        ),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, break_it: Any, says: str) -> None:
    root = write_dataset(tmp_path / "out", [row(0)])
    break_it(root)

    result = CliRunner().invoke(main, ["report", str(root)])

    assert result.exit_code == 2
    assert says in result.stderr
    assert not (root / "_job" / "report.html").exists()


def test_rows_that_only_a_server_knows_are_shown_too(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=4)
    root, engine = Path(spec.out), DoubleEngine(held=True)
    root.mkdir()
    worker = bench.worker(engine)
    worker.admit(wait=False)
    words = ["report", root, "-u", bench.url]

    told = cli(*words)
    assert (told.exit_code, "holds no rows yet" in told.stderr) == (2, True)
    for rows in (1, 2):
        engine.answer(1)
        worker.settle()
        assert run_status(bench.redis, spec.run_id).rows_done == rows
        assert cli(*words).exit_code == 0
        html = (root / "_job" / "report.html").read_text()
        assert f"Unfinished: {rows} of 4 rows are here, and 0 of 1 parts are whole." in html
        assert [row["asked"] for row in data_of(html)["rows"]] == [
            [["user", f"prompt {n}"]] for n in range(rows)
        ]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "out", [row(0)])
    (tmp_path / "file").touch()

    with pytest.raises(DatasetError, match=r"file/report\.html can't be written"):
        write_report(root, tmp_path / "file" / "report.html")


def test_without_vega_lite_it_has_all_but_charts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)

    html = html_of(mixed(tmp_path / "out"))

    assert "pip install &#39;mlx-batch[report]&#39;" in html
    assert "<svg" not in html
    assert len(data_of(html)["rows"]) == 60


def test_answers_in_json_are_told_field_by_field(tmp_path: Path) -> None:
    rows = []
    for at in range(40):
        facts = {
            "kind": ["book", "film"][at % 2],
            "tags": ["new", "old"][: at % 3],
            "price": at * 1.5,
            "name": f"name {at}",
            "place": {"city": "Bern" if at % 4 else "Ulm"},
            "sold": at % 5 == 0,
        }
        output = answer(at, json.dumps(facts), complete=True)
        rows.append(replace(row(at, output), parsed=json.dumps(facts)))
    root = write_dataset(tmp_path / "out", rows, parsed="json")

    fields = {field.name: field for field in figures_of(root).labels}

    assert fields["kind"].labels == [("book", 20), ("film", 20)]
    assert fields["tags"].counted == {"new": 26, "old": 13}
    assert fields["place.city"].labels == [("Bern", 30), ("Ulm", 10)]
    assert fields["sold"].labels == [("false", 32), ("true", 8)]
    assert (price := fields["price"].numbers)
    assert price.most == 58.5
    assert fields["name"].labels is None
    html = html_of(root)
    assert "name: hardly a value stands twice" in html
    assert html.count("<figure") == 5 + 4 + 2


def test_columns_and_folders_of_odd_names_are_no_trouble(tmp_path: Path) -> None:
    names = {"prompt": "string", "id.x": "string", "text.y": "int64", "Größe\n<b>": "double"}
    given = {"id.x": "inner", "text.y": 7, "Größe\n<b>": 1.5}
    root = write_dataset(tmp_path / "year=2026 #?" / "a b", [row(0, **given)], columns=names)

    (shown,) = data_of(html_of(root))["rows"]

    assert shown["given"] == given
    assert shown["id"] == "row-0"
