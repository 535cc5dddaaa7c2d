"""What identifies a run, which queue it goes to, and how its rows are cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.dataset import Dataset
from jobs.run_spec import InputSpec, RunSpec, queue_name
from jobs.sources import Format, Template
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "model": "some/model",
        "out": "/data/out",
        "input": InputSpec(path="/in.jsonl", fingerprint="abc", format=Format.JSONL),
        "rows": 10,
        "input_rows": 10,
        "bad_rows": 0,
        "shard_size": 4,
        "sampling": SamplingParams.of(),
        "n": 1,
        "chat": False,
        "columns": {"prompt": "string"},
    } | changes


def make_spec(**changes: Any) -> RunSpec:
    return RunSpec.create(**fields(**changes))


def test_the_same_command_is_the_same_run() -> None:
    moved = InputSpec(path="/elsewhere/in.jsonl", fingerprint="abc", format=Format.JSONL)

    assert make_spec().run_id == make_spec().run_id == make_spec(input=moved).run_id
    assert make_spec().run_id.startswith("run-")
    assert len(make_spec().run_id) == 16


LABELS = {"choice": ["a", "b"]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
RANKED: dict[str, Any] = {"structured_outputs": LABELS, "score_choices": True}
CHANGES: list[dict[str, Any]] = [
    {"model": "other/model"},
    {"model": "model@0123456789ab"},
    {"model": "model@0123456789ac"},
    {"out": "/data/other"},
    {"input": InputSpec(path="/in.jsonl", fingerprint="abd", format=Format.JSONL)},
    {"input": InputSpec(path="/in.jsonl", fingerprint="abc", format=Format.TEXT)},
    {"shard_size": 5},
    {"chat": True},
    {"n": 2},
    {"bad_rows": 1},
    {"retry_incomplete": True},
    {"sampling": SamplingParams.of(max_tokens=9)},
    {"sampling": SamplingParams.of(temperature=0.0)},
    {"sampling": SamplingParams.of(top_p=0.8)},
    {"sampling": SamplingParams.of(top_k=3)},
    {"sampling": SamplingParams.of(min_p=0.1)},
    {"sampling": SamplingParams.of(repetition_penalty=1.1)},
    {"sampling": SamplingParams.of(stop="END")},
    {"sampling": SamplingParams.of(stop=["END", "STOP"])},
    {"sampling": SamplingParams.of(seed=1)},
    {"sampling": SamplingParams.of(logprobs=0)},
    {"sampling": SamplingParams.of(prompt_logprobs=0)},
    {"sampling": SamplingParams.of(score_choices=True)},
    {"sampling": SamplingParams.of(normalize_scores=True)},
    {"sampling": SamplingParams.of(stop_on_repetition=True)},
    {"sampling": SamplingParams.of(allow_special_tokens=True)},
    {"sampling": SamplingParams.of(continue_final_message=True)},
    {"sampling": SamplingParams.of(add_generation_prompt=False)},
    {"sampling": SamplingParams.of(presence_penalty=0.5)},
    {"sampling": SamplingParams.of(frequency_penalty=0.5)},
    {"sampling": SamplingParams.of(logit_bias={5: -100})},
    {"sampling": SamplingParams.of(stop_token_ids=[5])},
    {"sampling": SamplingParams.of(min_tokens=5)},
    {"sampling": SamplingParams.of(ignore_eos=True)},
    {"sampling": SamplingParams.of(structured_outputs={"regex": "a"})},
    {"sampling": SamplingParams.of(structured_outputs={"choice": ["a"]})},
    {"sampling": SamplingParams.of(thinking="on")},
    {"sampling": SamplingParams.of(thinking="off")},
    {"sampling": SamplingParams.of(thinking_budget=9)},
    {"sampling": SamplingParams.of(chat_template_kwargs={"a": 1})},
    {"sampling": SamplingParams.of(structured_outputs=LABELS, score_choices=True)},
    {
        "sampling": SamplingParams.of(
            structured_outputs=LABELS, score_choices=True, normalize_scores=True
        )
    },
    {"sampling": SamplingParams.of(tools=TOOLS)},
    {"sampling": SamplingParams.of(tools=TOOLS, tool_choice="none")},
    {"sampling": SamplingParams.of(tools=TOOLS, parallel_tool_calls=False)},
    {"video_params": VideoParams.of(video_fps=1.0)},
    {"video_params": VideoParams.of(video_max_frames=16)},
]


def test_whatever_changes_the_dataset_changes_the_run() -> None:
    ids = [make_spec(**change).run_id for change in ({}, *CHANGES)]
    assert len(set(ids)) == len(ids)


def test_every_sampling_setting_is_part_of_the_identity() -> None:
    given = [change["sampling"] for change in CHANGES if "sampling" in change]
    assert {name for params in given for name in params.model_fields_set} == set(
        SamplingParams.model_fields
    )


def test_every_setting_of_videos_is_part_of_the_identity() -> None:
    given = [change["video_params"] for change in CHANGES if "video_params" in change]
    assert {name for params in given for name in params.model_fields_set} == set(
        VideoParams.model_fields
    )


def test_a_template_is_part_of_the_run() -> None:
    asked = [make_spec(template=Template.of(prompt=text)) for text in ("{{ a }}", "{{ b }}")]

    assert len({spec.run_id for spec in (make_spec(), *asked)}) == 3
    assert RunSpec.model_validate(asked[0].manifest()) == asked[0]
    assert RunSpec.model_validate_json(asked[0].model_dump_json()).template == asked[0].template


def test_runs_without_such_a_setting_have_the_ids_they_always_had() -> None:
    assert make_spec().run_id == make_spec(video_params=VideoParams.of()).run_id
    assert make_spec().run_id == "run-f37c1bb6ecb8"
    assert make_spec().run_id == make_spec(template=None).run_id


@pytest.mark.parametrize(
    ("rows", "size", "shards", "last"),
    [
        (10, 4, 3, range(8, 10)),
        (8, 4, 2, range(4, 8)),
        (1, 128, 1, range(1)),
        (3, 1, 3, range(2, 3)),
    ],
)
def test_rows_are_cut_into_shards(rows: int, size: int, shards: int, last: range) -> None:
    spec = make_spec(rows=rows, shard_size=size)

    assert spec.shards == shards
    assert spec.shard_rows(shards - 1) == last
    assert [row for shard in range(shards) for row in spec.shard_rows(shard)] == list(range(rows))


def test_job_ids_follow_from_the_run() -> None:
    spec = make_spec()
    assert spec.shard_id(2) == f"{spec.run_id}-00002"
    assert spec.finalize_id == f"{spec.run_id}-finalize"


@pytest.mark.parametrize(
    ("model", "queue"),
    [
        ("smollm2-135m", "mlx-smollm2-135m"),
        (
            "mlx-community/Llama-3.2-3B-Instruct-4bit",
            "mlx-mlx-community--Llama-3.2-3B-Instruct-4bit",
        ),
        ("tiny@0123456789ab", "mlx-tiny@0123456789ab"),
        ("my model@0123456789ab", "mlx-my--model@0123456789ab"),
        ("tiny.Q4_1.gguf@0123456789ab", "mlx-tiny.Q4_1.gguf@0123456789ab"),
    ],
)
def test_a_queue_is_named_after_its_model(model: str, queue: str) -> None:
    assert queue_name(model) == queue


def test_a_revision_that_is_found_later_leaves_the_run_what_it_is() -> None:
    assert make_spec(revision="5f1c0de").run_id == make_spec().run_id


def test_the_manifest_is_the_run(tmp_path: Path) -> None:
    frames = VideoParams.of(video_fps=1, video_max_frames=4)
    spec = make_spec(sampling=SamplingParams.of(stop=["\n"], seed=3), chat=True)
    assert RunSpec.model_validate(make_spec(video_params=frames).manifest()).video_params == frames
    manifest = spec.manifest()

    assert RunSpec.model_validate(json.loads(json.dumps(manifest))) == spec
    dataset = Dataset(tmp_path / "out")
    dataset.prepare(manifest)
    assert RunSpec.model_validate(dataset.manifest()) == spec


def test_the_manifest_says_what_made_the_dataset() -> None:
    manifest = make_spec().manifest()

    known = {"path": "/in.jsonl", "fingerprint": "abc", "format": "jsonl"}
    assert manifest["input"] == known | {"media": None}
    assert set(manifest["versions"]) == {"mlx-batch", "python"}
    assert manifest["created_at"].endswith("+00:00")
    assert manifest["sampling"]["max_tokens"] == 256


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        make_spec(colour="green")
