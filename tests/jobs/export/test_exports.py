"""Finished datasets in other formats, each read back by what reads it elsewhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from jobs.column_values import cell_encoder
from jobs.dataset import Dataset, schema
from jobs.errors import DatasetError
from jobs.export import ExportFormat, export
from jobs.result_row import ResultRow
from jobs.sources import read_requests
from tests.helpers.command_line import cli
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.outputs import GenerationOutput, TokenLogprob

COLUMNS = {"messages": "json", "prompt": "string"}
CHAT = '[{"role": "user", "content": "hi"}]'
SAID = GenerationOutput('Größe, "x"\n= 5', 5, 7, "stop", "tiny", seed=3, cached_tokens=2)
LIKELY = TokenLogprob(9, "\ufffd", float("-inf"))
TOKENS = (TokenLogprob(7, "答", -0.5, (TokenLogprob(7, "答", -0.5), LIKELY)),)


def row(position: int, output: GenerationOutput = SAID, **fields: Any) -> ResultRow:
    return ResultRow(id=f"r{position}", row=position, output=output, **fields)


def failed(position: int, **fields: Any) -> ResultRow:
    return row(position, GenerationOutput.from_error(ValueError("no"), "tiny"), **fields)


def written(root: Path, rows: list[ResultRow], columns: dict[str, Any], **changes: Any) -> Path:
    """A finished dataset of two parts."""
    manifest = {
        "run_id": "run-0123456789ab",
        "model": "tiny",
        "rows": len(rows),
        "input_rows": len({each.row for each in rows}),
        "samples": 1 + max(each.sample_index for each in rows),
        "shards": 2,
        "shard_size": -(-len(rows) // 2),
        "columns": columns,
        "chat": False,
        "input": {"path": str(root.parent / "in.jsonl"), "format": "openai", "media": None},
        "sampling": {"max_tokens": 64},
        "created_at": "2026-11-22T10:00:00+00:00",
        "versions": {"mlx-batch": "0.1.0"},
    } | changes
    dataset = Dataset(root)
    dataset.prepare(manifest)
    half = manifest["shard_size"]
    dataset.write_part(0, rows[:half])
    dataset.write_part(1, rows[half:])
    dataset.finalize()
    return root


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A chat with log-probabilities, two samples across parts, a continued prompt, errors."""
    chat = {"messages": CHAT}
    told = replace(SAID, logprobs=TOKENS, reasoning="hm", reasoning_tokens=2)
    cut = replace(SAID, finish_reason="repetition")
    rows = [
        row(0, told, columns=chat),
        failed(1, columns=chat),
        row(2, columns=chat),
        row(2, cut, sample_index=1, columns=chat),
        row(3, replace(SAID, logprobs=TOKENS), columns={"prompt": "p"}),
        row(4, columns=chat),
        failed(4, sample_index=1, columns=chat),
    ]
    return written(tmp_path / "answers", rows, COLUMNS)


def test_the_files_of_a_batch_of_openai(answers: Path) -> None:
    output, errors = export(answers, ExportFormat.OPENAI)
    assert output == (answers.with_name("answers_output.jsonl"), 3)
    assert errors == (answers.with_name("answers_error.jsonl"), 2)
    told, twice, continued = lines_of(output.path)
    assert [told["custom_id"], twice["custom_id"], continued["custom_id"]] == ["r0", "r2", "r3"]
    assert told.keys() == {"id", "custom_id", "response", "error"}
    assert told["error"] is None
    assert told["response"]["status_code"] == 200
    ids = {line["id"] for line in (told, twice, continued, *lines_of(errors.path))}
    assert len(ids) == 5

    chat = ChatCompletion.model_validate(told["response"]["body"], strict=True)
    (choice,) = chat.choices
    assert (chat.model, chat.created) == ("tiny", 1795341600)
    assert (choice.message.content, choice.finish_reason) == (SAID.text, "stop")
    assert choice.message.model_extra == {"reasoning_content": "hm"}
    assert choice.logprobs
    assert choice.logprobs.content
    (token,) = choice.logprobs.content
    assert (token.token, token.logprob, token.bytes) == ("答", -0.5, list("答".encode()))
    assert [(top.logprob, top.bytes) for top in token.top_logprobs] == [
        (-0.5, list("答".encode())),
        (-9999.0, None),
    ]
    usage = chat.usage
    assert usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 7, 12)
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == 2

    samples = ChatCompletion.model_validate(twice["response"]["body"], strict=True)
    assert [(each.index, each.finish_reason) for each in samples.choices] == [
        (0, "stop"),
        (1, "length"),
    ]
    assert samples.usage
    assert (samples.usage.prompt_tokens, samples.usage.completion_tokens) == (5, 14)

    completion = Completion.model_validate(continued["response"]["body"], strict=True)
    assert completion.object == "text_completion"
    assert completion.choices[0].text == SAID.text
    assert completion.choices[0].logprobs
    assert completion.choices[0].logprobs.top_logprobs == [{"答": -0.5, "\ufffd": -9999.0}]


def test_requests_in_error_are_in_the_error_file(answers: Path) -> None:
    _, errors = export(answers, ExportFormat.OPENAI, answers.parent / "b.jsonl")
    assert errors.path == answers.parent / "b_error.jsonl"
    assert [
        (line["custom_id"], line["response"], line["error"]) for line in lines_of(errors.path)
    ] == [
        ("r1", None, {"code": "ValueError", "message": "no"}),
        ("r4", None, {"code": "ValueError", "message": "no"}),
    ]


@pytest.mark.parametrize("own", ["1", "it's", '"', "a\\'\"\n", "é: an earlier row"])
def test_an_id_that_was_taken_is_the_one_of_its_error(tmp_path: Path, own: str) -> None:
    """The dataset names such a row by its position, which the batch never had."""
    path, line = tmp_path / "in.jsonl", {"method": "POST", "url": "/v1/chat/completions"}
    bodies = ({"messages": json.loads(CHAT)}, {"messages": json.loads(CHAT)}, {"messages": 5})
    lines = [{"custom_id": own, **line, "body": body} for body in bodies]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    rows = [
        row(read.row, GenerationOutput.from_error(read.error, "tiny"))
        if read.error
        else row(read.row)
        for read in read_requests(path)
    ]
    (_, errors) = export(written(tmp_path / "out", rows, {}), ExportFormat.OPENAI)
    assert [each["custom_id"] for each in lines_of(errors.path)] == [own, own]
    taken, both = (each["error"]["message"] for each in lines_of(errors.path))
    assert taken == f"id={own!r}: an earlier row has the same id"
    assert both.startswith("messages=5: ")
    assert both.endswith(f"; {taken}")


def test_a_prompt_that_was_a_chat_is_one(tmp_path: Path) -> None:
    plain = {"path": str(tmp_path / "in.csv"), "format": "csv", "media": None}
    columns = {"prompt": "p"}
    rows = [row(0, columns=columns), row(1, columns=columns)]
    for chat, kind in ((True, "chat.completion"), (False, "text_completion")):
        root = written(tmp_path / kind, rows, {"prompt": "string"}, input=plain, chat=chat)
        (output,) = export(root, ExportFormat.OPENAI)
        assert {line["response"]["body"]["object"] for line in lines_of(output.path)} == {kind}
        assert not root.with_name(f"{kind}_error.jsonl").exists()


def test_jsonl_has_every_column_as_a_value(answers: Path) -> None:
    ((path, count),) = export(answers, ExportFormat.JSONL)
    rows = lines_of(path)
    assert (path, count) == (answers.with_name("answers.jsonl"), 7)
    assert rows[0]["messages"] == json.loads(CHAT)
    assert rows[0]["logprobs"][0]["top"][1] == {"token_id": 9, "token": "\ufffd", "logprob": None}
    assert (rows[4]["id"], rows[4]["text"], rows[4]["prompt"]) == ("r3", SAID.text, "p")
    assert rows[1]["error"] == "no"
    assert {tuple(each) for each in rows} == {tuple(schema(COLUMNS).names)}


def test_csv_has_every_column_as_text(answers: Path) -> None:
    ((path, count),) = export(answers, ExportFormat.CSV)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (count, len(rows)) == (7, 7)
    assert (rows[0]["text"], rows[0]["prompt_tokens"], rows[0]["prompt"]) == (SAID.text, "5", "")
    assert json.loads(rows[0]["messages"]) == json.loads(CHAT)
    assert json.loads(rows[0]["logprobs"])[0]["token"] == "答"


@pytest.mark.parametrize("format", [ExportFormat.CSV, ExportFormat.JSONL])
def test_some_columns_in_their_order(answers: Path, format: ExportFormat) -> None:
    said = cli("export", answers, "--format", format, "--columns", 'text,"id",text')
    assert said.stdout == f"7 rows: {answers}.{format}\n"
    with answers.with_name(f"answers.{format}").open(newline="") as file:
        rows = csv.DictReader(file) if format is ExportFormat.CSV else map(json.loads, file)
        assert list(next(iter(rows)).items()) == [("text", SAID.text), ("id", "r0")]


def test_columns_that_there_are_not(answers: Path) -> None:
    said = cli("export", answers, "--format", "csv", "--columns", "id,txt")
    assert said.exit_code == 2
    assert "columns: there is no 'txt'; there are id, row, sample_index, text, " in said.stderr
    with pytest.raises(InvalidRequestError, match="not with openai, only with csv and jsonl"):
        export(answers, ExportFormat.OPENAI, columns=["id"])
    assert [each.name for each in answers.parent.iterdir()] == ["answers"]


def media_set(root: Path, names: list[str], **fields: Any) -> Path:
    """The dataset of a folder of images, beside which it lies."""
    folder = root / "pictures"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    rows = [
        replace(row(at, columns={"prompt": "?", "image": str(folder / name)}), id=name)
        for at, name in enumerate(names)
    ]
    given = {"path": str(folder), "format": "media", "media": "image"}
    columns = {"prompt": "string", "image": "string"}
    return written(root / "captions", rows, columns, input=given, **fields)


def test_a_sidecar_lies_beside_each_image(tmp_path: Path) -> None:
    root = media_set(tmp_path, ["cat.jpg", "more/dog.v1.png"])
    assert export(root, ExportFormat.TXT) == [(tmp_path / "pictures", 2)]
    for name in ("cat.txt", "more/dog.v1.txt"):
        assert (tmp_path / "pictures" / name).read_text() == f"{SAID.text}\n"
    export(root, ExportFormat.TXT, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "more" / "dog.v1.txt").read_text() == f"{SAID.text}\n"


def test_sidecars_of_a_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "2.png", "3.png"):
        (tmp_path / name).write_bytes(b"")
    part = {"type": "image_url", "image_url": {"url": "a/1.png"}}
    messages = json.dumps([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
    rows = [
        row(0, columns={"messages": messages}),
        row(1, columns={"prompt": "?", "images": '["2.png"]'}),
        failed(2, columns={"prompt": "?", "images": '["3.png"]'}),
    ]
    columns = {"messages": "json", "prompt": "string", "images": "json"}
    root = written(tmp_path / "answers", rows, columns)
    assert export(root, ExportFormat.TXT) == [(tmp_path, 2)]
    assert (tmp_path / "a" / "1.txt").exists()
    assert (tmp_path / "2.txt").exists()
    assert not (tmp_path / "3.txt").exists()


def test_two_images_never_share_a_sidecar(tmp_path: Path) -> None:
    root = media_set(tmp_path, ["cat.jpg", "cat.png"])
    with pytest.raises(DatasetError, match=r"rows 'cat\.jpg' and 'cat\.png' have the same sidecar"):
        export(root, ExportFormat.TXT)


def test_a_sidecar_is_of_one_file_that_is_there(tmp_path: Path) -> None:
    root = media_set(tmp_path, ["cat.jpg", "dog.jpg"])
    (tmp_path / "pictures" / "dog.jpg").unlink()
    with pytest.raises(DatasetError, match=r"row 'dog\.jpg': .*dog\.jpg is no file here"):
        export(root, ExportFormat.TXT)
    assert not (tmp_path / "pictures" / "cat.txt").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(0), row(0, sample_index=1)], "up to 2 samples: a sidecar holds one text"),
        ([row(0), row(1)], "row 'r0' has 0 images and videos"),
    ],
)
def test_rows_without_a_sidecar(tmp_path: Path, rows: list[ResultRow], words: str) -> None:
    # A column without a name was taken for all that there are not.
    rows = [replace(each, columns={"prompt": "p", "": 2}) for each in rows]
    root = written(tmp_path / "answers", rows, {"prompt": "string", "": "int64"})
    with pytest.raises(DatasetError, match=words):
        export(root, ExportFormat.TXT)


@pytest.mark.parametrize("format", ["openai", "jsonl", "csv"])
def test_no_file_is_lost(answers: Path, format: str) -> None:
    own = answers.with_name("answers_error.jsonl" if format == "openai" else f"answers.{format}")
    own.write_text("mine")
    refused = cli("export", answers, "--format", format)
    assert refused.exit_code == 6
    assert f"{own} is there already: --overwrite replaces it" in refused.stderr
    assert own.read_text() == "mine"
    taken = cli("export", answers, "--format", format, "--overwrite")
    assert taken.exit_code == 0
    assert str(own) in taken.stdout
    assert own.read_text() != "mine"


@pytest.mark.parametrize("format", ["openai", "txt", "csv"])
def test_nothing_is_exported_to_an_address(
    answers: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.chdir(answers.parent)
    before = sorted(answers.parent.iterdir())
    refused = cli("export", answers, "--format", format, "--out", "s3://bucket/file")
    reported = cli("report", answers, "--out", "s3://bucket/file")
    for said in (refused, reported):
        assert said.exit_code == 2
        assert "out='s3://bucket/file': should be a path on this machine" in said.stderr
    assert sorted(answers.parent.iterdir()) == before


def test_what_is_not_finished_is_not_exported(answers: Path) -> None:
    (answers / "_SUCCESS").unlink()
    refused = cli("export", answers, "--format", "csv")
    assert refused.exit_code == 2
    assert "is not finished" in refused.stderr
    assert not answers.with_name("answers.csv").exists()
    assert cli("export", answers / "data", "--format", "csv").exit_code == 2


def test_typed_columns_are_values_of_json(tmp_path: Path) -> None:
    columns = {
        "when": "timestamp[us]",
        "price": "decimal128(5, 2)",
        "deep": {"struct": {"a": "json"}},
    }
    own = {"when": "2024-01-31 12:30:00.000000", "price": "1.50", "deep": {"a": {"b": 1}}}
    encoded = {name: cell_encoder(columns[name])(value) for name, value in own.items()}
    rows = [row(0, columns=encoded), row(1)]
    ((path, _),) = export(written(tmp_path / "typed", rows, columns), ExportFormat.JSONL)
    first, second = lines_of(path)
    assert first["deep"] == {"a": {"b": 1}}
    assert (first["when"], first["price"]) == (own["when"], "1.50")
    assert (second["when"], second["price"], second["deep"]) == (None, None, None)
