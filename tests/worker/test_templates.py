"""Runs whose requests a template makes, from the producer to the dataset."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import Dataset, verify
from jobs.dataset.layout import schema
from jobs.dataset.part import read_part
from jobs.errors import InputFileError, RunExistsError
from jobs.ledger import Ledger
from jobs.producer import Enqueued, enqueue_run, resume_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, SEEING, DoubleEngine, echo
from vllm_mlx.batching.prompts.prompt import MediaPrompt

ROWS = [{"asin": f"B{row}", "title": f"Pan {row}", "messages": "mine"} for row in range(3)]


def write(folder: Path) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def enqueue(bench: Bench, **options: Any) -> Enqueued:
    options = {"model": MODEL, "out": bench.folder / "out", "shard_size": 2} | options
    return enqueue_run(bench.redis, write(bench.folder), **options)


def dataset_rows(spec: RunSpec) -> list[dict[str, Any]]:
    layout = Dataset(Path(spec.out)).layout
    parts = [layout.part(shard, spec.shards) for shard in range(spec.shards)]
    return [row for part in parts for row in read_part(part, schema(spec.columns)).to_pylist()]


def test_a_template_makes_a_chat_and_the_dataset_has_what_was_asked(bench: Bench) -> None:
    spec = enqueue(bench, prompt="{{ title }}?", id_column="asin").spec
    engine = DoubleEngine()

    bench.burst(engine)

    assert engine.prompts == [[{"role": "user", "content": f"Pan {row}?"}] for row in range(3)]
    assert verify(Path(spec.out)).complete
    rows = dataset_rows(spec)
    assert [row["id"] for row in rows] == ["B0", "B1", "B2"]
    assert [row["prompt"] for row in rows] == ["Pan 0?", "Pan 1?", "Pan 2?"]
    assert [row["asin"] for row in rows] == ["B0", "B1", "B2"]
    assert [row["messages"] for row in rows] == ["mine"] * 3
    manifest = json.loads((Path(spec.out) / "_job" / "manifest.json").read_bytes())
    assert manifest["template"]["prompt"] == "{{ title }}?"
    assert "{{ title }}?" in (Path(spec.out) / "README.md").read_text()


def test_without_a_chat_the_prompt_is_continued(bench: Bench) -> None:
    enqueue(bench, prompt="{{ title }}\n", chat=False)
    engine = DoubleEngine()

    bench.burst(engine)

    assert engine.prompts == [f"Pan {row}\n" for row in range(3)]


def test_samples_and_bad_rows_of_a_template(bench: Bench) -> None:
    text = "{% if title != 'Pan 1' %}{{ title }}{% endif %}"
    with pytest.raises(InputFileError, match="1 bad row of 3; nothing was enqueued"):
        enqueue(bench, prompt=text)
    assert bench.redis.keys("*") == []
    spec = enqueue(bench, prompt=text, id_column="asin", skip_bad_rows=True, n=2).spec
    engine = DoubleEngine()

    bench.burst(engine)

    rows = dataset_rows(spec)
    assert [(row["id"], row["sample_index"]) for row in rows] == [
        ("B0", 0),
        ("B0", 1),
        ("B1", 0),
        ("B2", 0),
        ("B2", 1),
    ]
    assert [row["error_type"] for row in rows][2] == "InvalidRequestError"
    assert [row["title"] for row in rows][2] == "Pan 1"
    assert verify(Path(spec.out)).complete


def test_a_run_is_resumed_without_the_file_of_its_template(bench: Bench) -> None:
    text = bench.folder / "ask.jinja"
    text.write_text("What is a {{ title }}?\n")
    spec = enqueue(bench, prompt=f"@{text}").spec
    text.unlink()
    bench.job(spec, 1).delete()

    resumed = resume_run(bench.redis, spec.run_id)

    assert (resumed.shards, resumed.spec) == (1, spec)
    engine = DoubleEngine()
    bench.burst(engine)
    assert [prompt[0]["content"] for prompt in engine.prompts] == [
        f"What is a Pan {row}?" for row in range(3)
    ]


def test_another_template_is_another_run(bench: Bench) -> None:
    first = enqueue(bench, prompt="{{ title }}").spec
    with pytest.raises(RunExistsError, match="was enqueued before"):
        enqueue(bench, prompt="{{ title }}")
    with pytest.raises(RunExistsError, match=f"is the folder of {first.run_id}"):
        enqueue(bench, prompt="{{ asin }}")


def test_on_the_command_line(bench: Bench) -> None:
    (bench.folder / "chat.json").write_text(
        '[{"role": "user", "content": "{{ title }}"}, {"role": "assistant", "content": "Yes"}]'
    )
    (bench.folder / "s.jinja").write_text("About {{ asin }}\n")
    words = ["enqueue", write(bench.folder), "--model", MODEL, "--out", bench.folder / "out"]
    words += ["-u", bench.url, "--messages", f"@{bench.folder}/chat.json"]
    words += ["--system", f"@{bench.folder}/s.jinja", "--id-column", "asin"]

    run_id = cli(*words).stdout.strip()

    spec = Ledger(bench.redis).spec(run_id)
    assert spec.template
    assert (spec.template.system, spec.template.id_column) == ("About {{ asin }}", "asin")
    assert spec.chat
    engine = DoubleEngine()
    bench.burst(engine)
    assert [message["content"] for message in engine.prompts[0]] == ["About B0", "Pan 0", "Yes"]
    refused = cli(*words, "--no-chat")
    assert refused.exit_code == 2
    assert "chat=False: system makes chats" in refused.stderr
    refused = cli(*words, "--prompt", "p")
    assert "give one of prompt and messages" in refused.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "What is {{ title }}?", "image_column": "pic"},
        {"prompt": "What is {{ title }}?", "system": "Look.", "image_column": "pic"},
        {"system": "Look.", "image_column": "pic"},
        {
            "messages": [
                {"role": "system", "content": "Look."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "{{ pic }}"},
                        {"type": "text", "text": "What is {{ title }}?"},
                    ],
                },
            ]
        },
    ],
    ids=["prompt", "system", "own", "parts"],
)
def test_images_of_a_column_are_shown_and_get_captions(
    bench: Bench, options: dict[str, Any]
) -> None:
    (bench.folder / "a.png").touch()
    path = bench.folder / "in.jsonl"
    row = {"title": "this", "pic": "a.png"}
    row |= {} if {"prompt", "messages"} & options.keys() else {"prompt": "What is this?"}
    path.write_text(json.dumps(row) + "\n")
    out = bench.folder / "out"
    enqueue_run(bench.redis, path, model=SEEING, out=out, **options)
    engine = DoubleEngine(say=lambda prompt: replace(echo(prompt), text="a dot", model=SEEING))

    bench.burst(engine, SEEING)

    [prompt] = engine.prompts
    assert isinstance(prompt, MediaPrompt)
    assert prompt.messages[-1]["content"] == [
        {"type": "image", "image": f"{bench.folder}/a.png"},
        {"type": "text", "text": "What is this?"},
    ]
    assert [message["role"] for message in prompt.messages[:-1]] == (
        [] if options.keys() == {"prompt", "image_column"} else ["system"]
    )
    result = cli("export", out, "--format", "txt")
    assert re.fullmatch(r"\d+ files?: .*\n", result.stdout)
    assert result.exit_code == 0, result.output
    assert (bench.folder / "a.txt").read_text().strip() == "a dot"


def test_a_file_of_media_is_asked_by_its_names(bench: Bench) -> None:
    photos = bench.folder / "photos" / "dog"
    photos.mkdir(parents=True)
    (photos / "1.png").touch()
    out = bench.folder / "out"
    asked = {"prompt": "What does the {{ folder }} of {{ name }} do?", "system": "Be brief."}
    enqueue_run(bench.redis, images=bench.folder / "photos", model=SEEING, out=out, **asked)
    engine = DoubleEngine(say=lambda prompt: replace(echo(prompt), model=SEEING))

    bench.burst(engine, SEEING)

    system, user = engine.prompts[0].messages
    assert system["content"] == "Be brief."
    assert user["content"] == [
        {"type": "image", "image": f"{photos}/1.png"},
        {"type": "text", "text": "What does the dog of 1.png do?"},
    ]
    assert verify(out).complete
    assert cli("export", out, "--format", "txt").exit_code == 0
    assert (photos / "1.txt").exists()
