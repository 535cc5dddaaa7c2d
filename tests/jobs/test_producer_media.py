"""Runs with images and videos: what is enqueued of a prompt file, and of media files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobs import preparation
from jobs.errors import InputFileError, RunExistsError
from jobs.producer import Enqueued, enqueue_run, forget_run
from jobs.queue.tasks import GenerateShard, read_task
from jobs.sources import Format
from tests.helpers.engines import SEEING, job_of
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.video_params import VideoParams


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.mp4", "a.mp4", "sub/c.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def enqueue(redis: Redis, folder: Path, path: Any = None, **options: Any) -> Enqueued:
    options = {"model": SEEING, "out": folder / "out", "shard_size": 2} | options
    return enqueue_run(redis, path, **options)


def payloads(redis: Redis, enqueued: Enqueued) -> list[GenerateShard]:
    spec = enqueued.spec
    tasks = [read_task(job_of(redis, spec, shard)) for shard in range(spec.shards)]
    return [task for task in tasks if isinstance(task, GenerateShard)]


def test_media_files_are_enqueued_a_row_a_file(redis: Redis, tmp_path: Path, clips: Path) -> None:
    enqueued = enqueue(redis, tmp_path, videos=str(clips / "**" / "*.mp4"), prompt="What?")

    spec = enqueued.spec
    assert (spec.rows, spec.shards, spec.input.format) == (3, 2, Format.MEDIA)
    assert spec.input.path == f"{clips}/**/*.mp4"
    assert spec.columns == {"prompt": "string", "video": "string"}
    assert enqueued.folder == clips
    rows = [row.data for task in payloads(redis, enqueued) for row in task.rows]
    assert [row["columns"]["id"] for row in rows] == ["a.mp4", "b.mp4", "sub/c.mp4"]
    assert rows[2] == {
        "columns": {"id": "sub/c.mp4", "video": f"{clips}/sub/c.mp4"},
        "request": {"prompt": "What?"},
    }
    assert spec.dialect.request(rows[2]).videos == (f"{clips}/sub/c.mp4",)


def test_images_have_a_column_of_their_own(redis: Redis, tmp_path: Path, clips: Path) -> None:
    (clips / "a.png").touch()
    enqueued = enqueue(redis, tmp_path, images=clips, prompt="What?", n=2)
    assert enqueued.spec.columns == {"prompt": "string", "image": "string"}
    assert enqueued.spec.rows == 2


def test_media_files_with_a_changed_file_or_question_are_another_run(
    redis: Redis, tmp_path: Path, clips: Path
) -> None:
    first = enqueue(redis, tmp_path, videos=clips, prompt="What?").spec
    with pytest.raises(RunExistsError):
        enqueue(redis, tmp_path, videos=clips, prompt="What?")
    assert enqueue(redis, tmp_path, videos=clips, prompt="What?", resume=True).shards == 0

    forget_run(redis, first.run_id)
    asked = enqueue(redis, tmp_path, videos=clips, prompt="Why?").spec
    forget_run(redis, asked.run_id)
    os.utime(clips / "a.mp4", ns=(1, 1))
    changed = enqueue(redis, tmp_path, videos=clips, prompt="What?").spec

    assert len({first.run_id, asked.run_id, changed.run_id}) == 3


def test_files_that_appear_while_they_are_enqueued_stop_it(
    redis: Redis, tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = preparation.survey_input

    def appear(*arguments: Any, **options: Any) -> Any:
        found = survey(*arguments, **options)
        (clips / "late.mp4").touch()
        return found

    monkeypatch.setattr(preparation, "survey_input", appear)
    with pytest.raises(InputFileError, match="clips was changed while it was enqueued"):
        enqueue(redis, tmp_path, videos=clips, prompt="What?")


def test_a_name_that_no_dataset_can_hold_is_a_bad_row(
    redis: Redis, tmp_path: Path, clips: Path
) -> None:
    (clips / os.fsdecode(b"\xff.mp4")).touch()
    with pytest.raises(InputFileError, match="1 bad row of 4;"):
        enqueue(redis, tmp_path, videos=clips, prompt="What?")

    enqueued = enqueue(redis, tmp_path, videos=clips, prompt="What?", skip_bad_rows=True)

    bad = payloads(redis, enqueued)[1].rows[1]
    assert bad.error
    assert bad.id == "3"


def test_one_input_is_named(redis: Redis, tmp_path: Path, clips: Path) -> None:
    with pytest.raises(InvalidRequestError, match="give one of"):
        enqueue(redis, tmp_path)
    with pytest.raises(InvalidRequestError, match="need a prompt"):
        enqueue(redis, tmp_path, videos=clips)
    assert redis.keys("*") == []


def write_chat(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    part = {"type": "image_url", "image_url": {"url": "sub/a.png"}}
    rows = [
        {"prompt": "p", "images": ["a.png", "https://h/b.png"]},
        {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]},
        {"prompt": "p"},
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def test_relative_paths_travel_with_the_producers_folder(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = write_chat(tmp_path)
    monkeypatch.chdir(tmp_path)

    enqueued = enqueue(redis, tmp_path, path.name)

    first, second = payloads(redis, enqueued)
    assert first.folder == second.folder == str(tmp_path)
    assert [row.data for row in (*first.rows, *second.rows)] == rows, "as they were given"
    requests = [Format.JSONL.dialect.request(row.data) for row in first.rows]
    found = [request.located(first.folder).media for request in requests]
    assert found == [
        [
            {"type": "image", "image": f"{tmp_path}/a.png"},
            {"type": "image", "image": "https://h/b.png"},
        ],
        [{"type": "image", "image": f"{tmp_path}/sub/a.png"}],
    ]


def test_video_settings_are_the_runs(redis: Redis, tmp_path: Path) -> None:
    path, _ = write_chat(tmp_path)
    plain = enqueue(redis, tmp_path, path).spec
    forget_run(redis, plain.run_id)
    frames = VideoParams.of(video_fps=0.5)

    spec = enqueue(redis, tmp_path, path, video_params=frames).spec

    assert (plain.video_params, spec.video_params) == (VideoParams.of(), frames)
    assert spec.run_id != plain.run_id
