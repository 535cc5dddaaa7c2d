"""Rows with images and videos: what reaches the engine, and what comes of it in the dataset."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from jobs.dataset import verify
from jobs.producer import enqueue_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, SEEING, DoubleEngine, echo
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.errors import MediaNotAllowedError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.video_params import VideoParams

PIXELS = base64.b64encode(bytes(900)).decode()
DATA_URL = f"data:image/png;base64,{PIXELS}"
CHAT = [
    {
        "role": "system",
        "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}],
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Compare"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
            {"type": "video", "video": "clip.mp4"},
        ],
    },
]
ROWS: list[dict[str, Any]] = [
    {"id": "text", "prompt": "one"},
    {"id": "image", "prompt": "two", "image": "a.png"},
    {"id": "both", "prompt": "three", "videos": ["v.mp4"], "images": ["/b.png"], "video_fps": 4},
    {"id": "chat", "messages": CHAT, "video_max_frames": 1},
    {"id": "talk", "messages": [{"role": "user", "content": "four"}]},
    {"id": "bad", "messages": CHAT, "images": ["a.png"]},
]


def enqueue(bench: Bench, **options: Any) -> RunSpec:
    path = bench.folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options |= {"model": MODEL, "out": bench.folder / "out", "skip_bad_rows": True, "shard_size": 4}
    options |= {"video_params": VideoParams.of(video_fps=2)}
    return enqueue_run(bench.redis, path, **options).spec


def rows_of(spec: RunSpec) -> dict[str, dict[str, Any]]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return {row["id"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("chat", [False, True])
def test_rows_reach_the_engine_with_their_media(bench: Bench, chat: bool) -> None:
    enqueue(bench, chat=chat)
    engine = DoubleEngine()

    bench.burst(engine)

    text, image, both, messages, talk = engine.prompts
    assert text == ([{"role": "user", "content": "one"}] if chat else "one")
    assert talk == [{"role": "user", "content": "four"}]
    assert image == MediaPrompt(
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": f"{bench.folder}/a.png"},
                    {"type": "text", "text": "two"},
                ],
            }
        ],
        VideoParams.of(video_fps=2),
    )
    assert both.video == VideoParams.of(video_fps=4)
    assert both.messages[0]["content"] == [
        {"type": "image", "image": "/b.png"},
        {"type": "video", "video": f"{bench.folder}/v.mp4"},
        {"type": "text", "text": "three"},
    ]
    assert messages.video == VideoParams.of(video_fps=2, video_max_frames=1)
    assert messages.messages == [
        {"role": "system", "content": "Be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Compare"},
                {"type": "image", "image": DATA_URL},
                {"type": "video", "video": f"{bench.folder}/clip.mp4"},
            ],
        },
    ]


def test_what_was_seen_stands_in_the_dataset(bench: Bench) -> None:
    spec = enqueue(bench)
    bench.burst(DoubleEngine())

    rows = rows_of(spec)

    assert verify(Path(spec.out)).complete
    assert {id: row["media"] and [m["kind"] for m in row["media"]] for id, row in rows.items()} == {
        "text": None,
        "image": ["image"],
        "both": ["image", "video"],
        "chat": ["image", "video"],
        "talk": None,
        "bad": None,
    }
    assert rows["both"]["media"][1]["timestamps"] == [0.0, 0.25, 0.5, 0.75]
    assert rows["chat"]["media"][1]["timestamps"] == [0.0]
    assert rows["bad"]["error_type"] == "InvalidRequestError"


def test_columns_hold_what_the_row_said(bench: Bench) -> None:
    spec = enqueue(bench)
    bench.burst(DoubleEngine())

    rows = rows_of(spec)

    assert rows["image"]["image"] == "a.png"
    assert rows["both"]["videos"] == ["v.mp4"]
    assert rows["both"]["video_fps"] == 4
    url = rows["chat"]["messages"][1]["content"][1]["image_url"]["url"]
    assert url == "data:image/png;base64,… (900 bytes)"


def test_a_medium_that_can_not_be_read_costs_only_its_row(bench: Bench) -> None:
    def say(prompt: Any) -> GenerationOutput:
        if "v.mp4" in str(prompt):
            raise MediaNotAllowedError("v.mp4 is elsewhere")
        return echo(prompt)

    spec = enqueue(bench)
    bench.burst(DoubleEngine(say=say))

    errors = {id: row["error_type"] for id, row in rows_of(spec).items() if row["error_type"]}
    assert errors == {"both": "MediaNotAllowedError", "bad": "InvalidRequestError"}


def test_media_files_become_rows_named_after_them(bench: Bench) -> None:
    (bench.folder / "clips").mkdir()
    for name in ("b.mp4", "a.mp4"):
        (bench.folder / "clips" / name).touch()
    pattern = bench.folder / "clips" / "*.mp4"
    spec = enqueue_run(
        bench.redis, videos=pattern, prompt="?", model=SEEING, out=bench.folder / "out"
    ).spec

    bench.burst(DoubleEngine(say=lambda prompt: replace(echo(prompt), model=SEEING)), SEEING)

    rows = rows_of(spec)
    assert list(rows) == ["a.mp4", "b.mp4"]
    assert rows["a.mp4"]["video"] == str(bench.folder / "clips" / "a.mp4")
    assert rows["a.mp4"]["prompt"] == "?"
    assert len(rows["a.mp4"]["media"][0]["timestamps"]) == 2
    assert verify(Path(spec.out)).complete
