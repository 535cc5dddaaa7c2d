"""Scores of given text, from a prompt file to the dataset."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pyarrow.dataset
import pytest
from mlx_lm import utils as mlx_lm_utils

from jobs.errors import InputFileError
from jobs.producer import enqueue_run
from jobs.sources import read_requests
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.text_folders import write_folder
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM

PASSAGE = "It was a bright cold day in April, and the clocks were striking thirteen."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models"), "llama")


def rows_of(out: Path) -> list[dict[str, Any]]:
    table = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["row"])


def forward(folder: Path, text: str) -> list[float]:
    """How likely mlx-lm finds each token of a text but the first."""
    model, tokenizer = mlx_lm_utils.load(str(folder))[:2]
    tokens = tokenizer.encode(text)
    logits = model(mx.array([tokens]))[0, :-1].astype(mx.float32)
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    found: Any = mx.take_along_axis(logits, mx.array(tokens[1:])[:, None], axis=-1)[:, 0].tolist()
    return found


def test_a_run_tells_how_likely_its_prompts_are(tmp_path: Path, folder: Path) -> None:
    prompts = [PASSAGE + end for end in (" So?", " Why not?", "")]
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [{"prompt": each} for each in prompts]
    rows.append({"prompt": "No", "prompt_logprobs": None, "max_tokens": 2})
    rows[1]["prompt_logprobs"] = 2
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    asked = ("--prompt-logprobs", 0, "--max-tokens", 0)

    ran = cli("run", path, "--model", folder, *asked, "--out", tmp_path / "out")

    assert ran.exit_code == 0, ran.output
    found = rows_of(tmp_path / "out")
    for row, prompt in zip(found, prompts, strict=False):
        none, *places = row["prompt_logprobs"]
        assert none is None
        assert [each["logprob"] for each in places] == pytest.approx(
            forward(folder, prompt), abs=1e-4
        )
        assert (row["text"], row["completion_tokens"], row["seed"]) == ("", 0, None)
        assert (row["finish_reason"], row["logprobs"]) == ("length", None)
    assert [len(row["prompt_logprobs"][1]["top"]) for row in found] == [0, 2, 0, 0]
    assert found[3]["completion_tokens"] == 2
    assert max(row["cached_tokens"] for row in found[:3:2]) >= 64


def test_a_run_ranks_labels(tmp_path: Path, folder: Path) -> None:
    questions = [f"{PASSAGE} Question {n}: " for n in range(3)]
    path = tmp_path / "rows.jsonl"
    own = {"structured_outputs": {"choice": ["yes", "no"]}, "logprobs": 0}
    rows: list[dict[str, Any]] = [{"prompt": each} for each in questions]
    rows += [{"prompt": "Who?", **own}, {"prompt": "Who?", "score_choices": False, "max_tokens": 2}]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    flags = ("--choices", "April, May,June", "--score", "--normalize-scores")
    rows[-1] |= {"normalize_scores": False}
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))

    ran = cli("run", path, "--model", folder, *flags, "--out", tmp_path / "out")

    assert ran.exit_code == 0, ran.output
    found = rows_of(tmp_path / "out")
    for row, prompt in zip(found, questions, strict=False):
        for each in row["scores"]:
            expected = forward(folder, prompt + each["choice"])[-each["tokens"] :]
            assert each["logprob"] == pytest.approx(sum(expected), abs=1e-4)
        ranks = [each["logprob"] / each["tokens"] for each in row["scores"]]
        assert ranks == sorted(ranks, reverse=True)
        assert {each["choice"] for each in row["scores"]} == {"April", "May", "June"}
        assert (row["text"], row["complete"]) == (row["scores"][0]["choice"], True)
        assert (row["finish_reason"], row["error"]) == ("stop", None)
    assert sorted(row["cached_tokens"] >= 64 for row in found[:3]) == [False, True, True]
    assert {each["choice"] for each in found[3]["scores"]} == {"yes", "no"}
    assert len(found[3]["logprobs"]) == found[3]["scores"][0]["tokens"]
    assert found[4]["scores"] is None


def test_rows_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    choice = {"structured_outputs": {"choice": ["a", "b"]}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"score_choices": True}, "score_choices: ranks the labels of a choice"),
        ({"normalize_scores": True}, "normalize_scores: goes with score"),
        (
            {"score_choices": True, "prompt_logprobs": 1, **choice},
            "prompt_logprobs=1: changes no score",
        ),
        ({"score_choices": True, "n": 2, **choice}, "or score_choices every sample is the same"),
        (
            {"score_choices": True, "image": "a.png", **choice},
            "score_choices: a prompt with images or videos",
        ),
    ]
    path.write_text("".join(json.dumps({"prompt": "a", **each}) + "\n" for each, _ in wrong))

    for row, (_, says) in zip(read_requests(path), wrong, strict=True):
        assert says in str(row.error)


async def _scored(folder: Path) -> Any:
    async with BatchedEngine(str(folder)) as engine:
        return await engine.generate(PASSAGE, max_tokens=0, prompt_logprobs=1)


def test_python_says_the_same(folder: Path) -> None:
    expected = pytest.approx(forward(folder, PASSAGE), abs=1e-4)
    with MLXLanguageModel(str(folder)) as model:
        output = model.generate(PASSAGE, max_tokens=0, prompt_logprobs=1)
        chunks = list(model.stream_generate(PASSAGE, max_tokens=3, prompt_logprobs=1))
    for each in (output, asyncio.run(_scored(folder)), chunks[-1]):
        assert each.prompt_logprobs
        assert [place.logprob for place in each.prompt_logprobs[1:]] == expected
        assert all(len(place.top) == 1 for place in each.prompt_logprobs[1:])
    assert all(each.prompt_logprobs is None for each in chunks[:-1])


def test_samples_of_what_is_not_drawn_are_refused(tmp_path: Path, folder: Path) -> None:
    with (
        MLXLanguageModel(str(folder)) as model,
        pytest.raises(InvalidRequestError, match="without a token all samples"),
    ):
        model.generate_samples("a", 2, max_tokens=0)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "n": 2, "max_tokens": 0}\n')
    (row,) = read_requests(path)
    assert "every sample is the same" in str(row.error)


def test_images_have_none_which_is_said_before_work_begins(
    bench: Bench, tmp_path: Path, vision_folder: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "image": "a.png", "prompt_logprobs": 0}\n')
    with pytest.raises(InputFileError, match="prompt_logprobs: a prompt with images or videos"):
        enqueue_run(bench.redis, path, model="smollm2-135m", out=tmp_path / "out")

    picture = np.zeros((40, 48, 3), np.uint8)
    with (
        MLXMultimodalLM(str(vision_folder)) as model,
        pytest.raises(InvalidRequestError, match="prompt_logprobs: a prompt with images or videos"),
    ):
        model.generate("What is it?", [picture], max_tokens=2, prompt_logprobs=0)
