"""Random schemas: what ends by itself holds for its schema, whatever the model would rather say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.decoding import VOCAB, run, tiny_llama
from tests.helpers.grammars import END, constrained, said
from tests.helpers.schemas import schemas
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.scheduler_config import SchedulerConfig

MANY = st.lists(schemas(), min_size=8, max_size=8)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return tiny_llama()


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
@given(asked=MANY, seed=st.integers(0, 2**32))
def test_random_tokens_make_valid_answers(asked: list[Any], seed: int, tiny: Any) -> None:
    runner = make_runner(tiny, vocab_size=VOCAB, config=SchedulerConfig(max_num_seqs=8))
    rows = [
        constrained(
            str(at),
            [at + 1],
            150,
            temperature=2.0,
            top_p=1.0,
            seed=seed + at,
            structured_outputs={"json": schema},
        )
        for at, schema in enumerate(asked)
    ]
    run(Scheduler(runner, {END}), rows)
    whole = [row for row in rows if row.finish_reason == "stop"]
    for row in whole:
        jsonschema.validate(json.loads(said(row)), asked[rows.index(row)])
    assert whole, "all of these are short"


def check_smollm2(model: MLXLanguageModel, asked: list[Any], seed: int) -> None:
    options: Any = {"max_tokens": 60, "temperature": 1.2, "top_p": 1.0, "seed": seed}
    requests = [
        Request.of_user("Write JSON:", {**options, "structured_outputs": {"json": schema}})
        for schema in asked
    ]
    for schema, output in zip(asked, model._answers(*requests), strict=True):
        assert output.complete == (output.finish_reason == "stop")
        if output.complete:
            jsonschema.validate(json.loads(output.text), schema)


@settings(max_examples=1, deadline=None, suppress_health_check=SLOW)
@given(asked=st.lists(schemas(), min_size=4, max_size=4), seed=st.integers(0, 2**32))
def test_smollm2_makes_valid_answers(
    asked: list[Any], seed: int, language_model: MLXLanguageModel
) -> None:
    check_smollm2(language_model, asked, seed)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(asked=MANY, seed=st.integers(0, 2**32))
def test_smollm2_makes_many_valid_answers(
    asked: list[Any], seed: int, language_model: MLXLanguageModel
) -> None:
    check_smollm2(language_model, asked, seed)
