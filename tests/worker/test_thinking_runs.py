"""Thinking in files and on the command line: each row's own, the run's for the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from jobs.sources import read_requests
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.thinking_folder import ANSWER, THOUGHT, write_thinking_model
from worker.engine.supervisor import SupervisedEngine

CHAT = [{"role": "user", "content": "why"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_thinking_model(tmp_path_factory.mktemp("models") / "thinks")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def enqueue(bench: Bench, prompts: Path, model: str, *flags: str) -> Any:
    given = ("--model", model, "--out", bench.folder / "out", "--temperature", "0", *flags)
    return cli("enqueue", prompts, "--url", bench.url, *given)


def test_a_run_says_it_for_rows_that_do_not(bench: Bench, model: str) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": CHAT},
        {"messages": CHAT, "thinking": "on"},
        {"messages": CHAT, "thinking": True, "max_tokens": 5},
        {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True}, "thinking": "on"},
        {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True}},
        {"messages": CHAT, "chat_template_kwargs": {"unheard_of": 1}},
        {"messages": CHAT, "thinking": "on", "thinking_budget": 2},
    ]

    result = enqueue(
        bench,
        write(bench.folder / "p.jsonl", rows),
        model,
        "--thinking",
        "off",
        "--thinking-budget",
        "9",
    )
    assert result.exit_code == 0, result.output
    bench.burst(SupervisedEngine(model), model)

    table = pyarrow.dataset.dataset(bench.folder / "out" / "data", format="parquet").to_table()
    found = sorted(table.to_pylist(), key=lambda row: row["row"])
    assert [(row["reasoning"], row["text"], row["reasoning_tokens"]) for row in found] == [
        (None, ANSWER, 0),
        (THOUGHT[:9], ANSWER, 9),
        (THOUGHT[:4], "", 4),
        (THOUGHT[:9], ANSWER, 9),
        (None, "", 0),
        (None, "", 0),
        (THOUGHT[:2], ANSWER, 2),
    ]
    assert [row["error_type"] for row in found[4:6]] == ["InvalidRequestError", "ChatTemplateError"]
    assert "give one of them" in found[4]["error"]
    assert "unheard_of" in found[5]["error"]
    assert found[2]["finish_reason"] == "length"


def test_arguments_of_a_template_are_json_on_the_command_line(bench: Bench, model: str) -> None:
    prompts = bench.folder / "prompts.txt"
    prompts.write_text("why\n")
    flags = ("--chat", "--chat-template-kwargs")

    for wrong, said in (("{x", "is not JSON"), ("[1]", "is not a JSON object")):
        refused = enqueue(bench, prompts, model, *flags, wrong)
        assert refused.exit_code == 2
        assert said in refused.output
    enqueue(bench, prompts, model, *flags, '{"enable_thinking": false}')
    bench.burst(SupervisedEngine(model), model)

    table = pyarrow.dataset.dataset(bench.folder / "out" / "data", format="parquet").to_table()
    assert table.select(["reasoning", "text"]).to_pylist() == [{"reasoning": None, "text": ANSWER}]


@pytest.mark.parametrize("flags", [(), ("--thinking", "off")])
def test_what_no_template_reads_is_refused_before_anything_is_enqueued(
    bench: Bench, model: str, flags: tuple[str, ...]
) -> None:
    own: dict[str, Any] = {} if flags else {"thinking": "off"}
    prompts = write(bench.folder / "p.jsonl", [{"prompt": "why", **own}])

    refused = enqueue(bench, prompts, model, *flags)

    assert refused.exit_code == 2
    assert "thinking: no chat template reads it" in refused.output
    assert enqueue(bench, prompts, model, *flags, "--chat").exit_code == 0


def test_a_table_has_it_in_cells(tmp_path: Path) -> None:
    prompts = tmp_path / "p.csv"
    prompts.write_text('prompt,thinking,chat_template_kwargs\nwhy,off,"{""a"": [1]}"\n')
    (row,) = read_requests(prompts, chat=True)
    assert row.request
    assert row.request.thinking == "off"
    assert row.request.chat_template_kwargs == {"a": [1]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("enable_thinking", "use thinking, which is on or off"),
        ("thinkin", "unknown field, did you mean thinking?"),
    ],
)
def test_other_names_are_not_carried_in_silence(tmp_path: Path, name: str, said: str) -> None:
    (row,) = read_requests(write(tmp_path / "p.jsonl", [{"messages": CHAT, name: True}]))
    assert said in str(row.error)
