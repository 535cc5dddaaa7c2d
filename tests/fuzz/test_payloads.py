"""Jobs of any content: a task of ours, or a `JobPayloadError`; and their rows."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from rq.serializers import JSONSerializer

from jobs.errors import JobPayloadError
from jobs.queue.job import BatchJob
from jobs.queue.tasks import FINALIZE_RUN, GENERATE_SHARD, GenerateShard, read_task
from jobs.sources import Format, Template
from jobs.sources.templated import Templated
from tests.helpers.strategies import JSON, any_of, cases, changed, only
from vllm_mlx.errors import MLXBatchError

ROW = {"row": 0, "data": {"prompt": "a"}, "error": None, "id": "a", "sample_index": 0, "samples": 1}
PLAIN = {"prompt": "a", "messages": [], "images": ["a"], "n": 1, "body": {"messages": []}}
DATA = any_of(PLAIN) | any_of({"columns": PLAIN, "request": {"prompt": "a"}})
ROWS = st.lists(any_of(ROW) | st.builds(lambda data: {**ROW, "data": data}, DATA), max_size=3)
KWARGS = any_of({"run_id": "run-1", "shard": 0, "folder": "/in"}).flatmap(
    lambda kwargs: st.builds(lambda rows: {**kwargs, "rows": rows}, ROWS)
)
NAMES = st.sampled_from([GENERATE_SHARD, FINALIZE_RUN, "os.system", "", None, 1])
CALLS = st.tuples(NAMES, st.none() | JSON, st.just([]) | JSON, KWARGS | JSON)
DIALECTS = [
    *(format.dialect for format in Format),
    Templated(Template(prompt="p")),
    Templated(Template(system="s", id_column="prompt", image_column="n")),
]
GOOD = json.dumps([GENERATE_SHARD, None, [], {"run_id": "r", "shard": 0, "rows": [ROW]}]).encode()


def read(data: bytes) -> None:
    job = BatchJob("run-1-00000", connection=Redis(), serializer=JSONSerializer)
    job.data = data
    with only(JobPayloadError):
        task = read_task(job)
        if isinstance(task, GenerateShard):
            assert len(task.samples) >= len(task.rows) > 0
            for row in task.rows:
                read_row(row.data, task.folder)


def read_row(data: dict[str, Any], folder: str | None) -> None:
    for dialect in DIALECTS:
        with only(MLXBatchError):
            dialect.columns(data)
            dialect.own_id(data)
            dialect.request(data).located(folder)


@cases(0.05)
@given(data=st.binary(max_size=300) | changed(GOOD))
def test_any_bytes(data: bytes) -> None:
    read(data)


@cases(0.15)
@given(call=st.builds(list, CALLS) | JSON)
def test_any_json(call: Any) -> None:
    read(json.dumps(call).encode())


def test_json_that_is_too_deep() -> None:
    read(b"[" * 100_000)
