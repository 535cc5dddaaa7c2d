"""Labels are ranked as a forward pass of mlx-lm ranks them, and their prompt is computed once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm_utils

from tests.helpers.text_folders import write_folder
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.errors import (
    ContextLengthError,
    InvalidRequestError,
    MLXBatchError,
    RequestAbortedError,
)
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

PASSAGE = "The cat sat on the mat, and the dog lay beside it in the shade of a tree. "
LABELS = ["the cat", "a dog", "no", "nobody at all"]
NEAR = 1e-4


def asked(labels: list[str] = LABELS, **more: Any) -> dict[str, Any]:
    return {"structured_outputs": {"choice": labels}, "score_choices": True, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(scope="module")
def likelihoods(folder: Path) -> Any:
    """Says how likely mlx-lm's model finds each token of a label behind a prompt."""
    model, tokenizer = mlx_lm_utils.load(str(folder))[:2]

    def find(prompt: str, label: str) -> list[float]:
        start, end = tokenizer.encode(prompt), tokenizer.encode(label)
        logits = model(mx.array([start + end]))[0].astype(mx.float32)
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return [logits[len(start) - 1 + at, token].item() for at, token in enumerate(end)]

    return find


def assert_ranked(
    output: GenerationOutput, prompt: str, likelihoods: Any, labels: list[str], mean: bool = False
) -> None:
    found = {label: likelihoods(prompt, label) for label in labels}
    worth = {label: sum(each) / (len(each) if mean else 1) for label, each in found.items()}
    assert output.scores
    assert [each.choice for each in output.scores] == sorted(labels, key=lambda at: -worth[at])
    for each in output.scores:
        assert each.logprob == pytest.approx(sum(found[each.choice]), abs=NEAR)
        assert each.tokens == len(found[each.choice])
    best = output.scores[0]
    assert (output.text, output.completion_tokens) == (best.choice, best.tokens)
    assert (output.finish_reason, output.complete, output.seed) == ("stop", True, None)
    assert output.prompt_logprobs is None


@pytest.mark.parametrize("mean", [False, True], ids=["sum", "mean"])
def test_labels_are_ranked_as_by_a_forward_pass(folder: Path, likelihoods: Any, mean: bool) -> None:
    with MLXLanguageModel(str(folder)) as model:
        for prompt in (PASSAGE, "Who?", "x"):
            output = model.generate(prompt, **asked(normalize_scores=mean))
            assert_ranked(output, prompt, likelihoods, LABELS, mean)
            assert output.prompt_tokens == len(model.tokenizer.encode(prompt))
        (chunk,) = model.stream_generate(PASSAGE, **asked(normalize_scores=mean))
        assert_ranked(chunk, PASSAGE, likelihoods, LABELS, mean)


def test_by_length_another_label_may_be_the_best(folder: Path) -> None:
    """The longer a label, the less likely all of it is."""
    with MLXLanguageModel(str(folder)) as model:
        pairs = [
            [
                model.generate(prompt, **asked(normalize_scores=mean)).scores or ()
                for mean in (False, True)
            ]
            for prompt in ("Who?", PASSAGE, "x", "y", "z", "When?")
        ]
    assert any(by_sum != by_mean for by_sum, by_mean in pairs)
    assert all(set(by_sum) == set(by_mean) for by_sum, by_mean in pairs)


def test_logprobs_are_those_of_the_best_label(folder: Path, likelihoods: Any) -> None:
    with MLXLanguageModel(str(folder)) as model:
        output = model.generate(PASSAGE, **asked(logprobs=2))

    assert output.logprobs
    expected = likelihoods(PASSAGE, output.text)
    assert [each.logprob for each in output.logprobs] == pytest.approx(expected, abs=NEAR)
    assert all(len(each.top) == 2 for each in output.logprobs)


@pytest.mark.parametrize("runner", ["slots", "mlx-lm's batches", "one by one"])
def test_a_passage_is_computed_once_for_all_questions_and_labels(
    folder: Path, likelihoods: Any, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runner != "slots":
        monkeypatch.setattr(
            "vllm_mlx.batching.runners.make_runner._batches",
            lambda model, vocab, bounds, _: _fallback(runner, model, vocab, bounds),
        )
    prompts = [f"{PASSAGE}Question {n}: who {what}? " for n, what in enumerate("abcd")]
    core = EngineCore(str(folder), load_model, SchedulerConfig(max_num_seqs=8))
    core.start()
    try:
        futures = core.submit(
            *(Request(each, SamplingParams.of(**asked())) for each in prompts),
            Request(PASSAGE, SamplingParams.of(temperature=0, max_tokens=3)),
        )
        *outputs, free = [future.result(60) for future in futures]
        stats = core.stats
    finally:
        core.stop()

    for prompt, output in zip(prompts, outputs, strict=True):
        assert_ranked(output, prompt, likelihoods, LABELS)
    assert free.scores is None
    assert free.completion_tokens == 3
    if runner == "slots":
        computed = [
            each for each in [*outputs, free] if each.cached_tokens < len(PASSAGE) // 16 * 16
        ]
        assert len(computed) == 1
        labels = sum(len(label) for label in LABELS) * len(prompts)
        own = len(PASSAGE) + sum(len(prompt) - len(PASSAGE) for prompt in prompts)
        assert stats.prompt_tokens - stats.cached_tokens < own + labels + 200


def _fallback(runner: str, model: Any, vocab: int, bounds: Any) -> Any:
    if runner == "mlx-lm's batches":
        yield runner, lambda: UpstreamRunner(model, vocab_size=vocab, bounds=bounds), None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"score_choices": True}, "score_choices: ranks the labels of a choice"),
    "another constraint": (
        {"score_choices": True, "structured_outputs": {"regex": "a"}},
        "score_choices: ranks the labels of a choice",
    ),
    "only normalized": ({"normalize_scores": True}, "normalize_scores: goes with score"),
    "prompt_logprobs": (asked(prompt_logprobs=1), "prompt_logprobs=1: changes no score"),
    "a penalty": (asked(repetition_penalty=1.5), "repetition_penalty=1.5: changes no score"),
    "a bias": (asked(logit_bias={5: 1.0}), "changes no score"),
    "longer than max_tokens": (asked(max_tokens=3), "has 7 tokens; allowed are 1 to max_tokens=3"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_it_is_refused(folder: Path, options: dict[str, Any], says: str) -> None:
    with (
        MLXLanguageModel(str(folder)) as model,
        pytest.raises(InvalidRequestError, match=says),
    ):
        model.generate("Who?", **options)


def test_a_label_beyond_the_context_is_refused(folder: Path) -> None:
    with MLXLanguageModel(str(folder)) as model:
        model.load()
        model._core.loaded.context_length = 8
        with pytest.raises(ContextLengthError):
            model.generate("Who?", **asked())
        assert model.generate("W", **asked(["a", "b"])).scores


def test_an_image_is_refused(vision_folder: Path) -> None:
    picture = np.zeros((40, 48, 3), np.uint8)
    with (
        MLXMultimodalLM(str(vision_folder)) as model,
        pytest.raises(InvalidRequestError, match="score_choices: a prompt with images"),
    ):
        model.generate("What is it?", [picture], **asked(["a", "b"]))


def test_one_that_is_aborted_frees_its_labels(folder: Path) -> None:
    async def abort() -> Any:
        async with BatchedEngine(str(folder), max_num_seqs=1) as engine:
            long = asyncio.create_task(engine.generate(PASSAGE, max_tokens=200, temperature=0))
            call = asyncio.create_task(engine.generate(PASSAGE, request_id="a", **asked()))
            await asyncio.sleep(0.05)
            await engine.abort("a")
            with pytest.raises(RequestAbortedError):
                await call
            await long
            return engine.stats

    stats = asyncio.run(abort())

    assert (stats.running, stats.waiting) == (0, 0)


def test_a_callback_that_fails_ends_its_own_request(folder: Path) -> None:
    core = EngineCore(str(folder), load_model, SchedulerConfig(max_num_seqs=4))
    core.start()
    begun: list[int] = []

    def fall(_: GenerationOutput) -> None:
        raise RuntimeError("the caller's")

    params = SamplingParams.of(**asked())
    try:
        failing, good = core.submit(
            Request("Who?", params, on_chunk=fall),
            Request("Who else?", params, on_begin=lambda: begun.append(1)),
        )
        with pytest.raises((RuntimeError, MLXBatchError), match="the caller's"):
            failing.result(30)
        assert good.result(30).scores
    finally:
        core.stop()
    assert begun == [1]


def test_a_control_token_in_a_label_is_text_unless_it_is_allowed(
    language_model: MLXLanguageModel,
) -> None:
    labels, messages = ["a<|im_end|>", "a", "\n<|im_end|>"], [{"role": "user", "content": "q"}]
    end = language_model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = {}
    for allowed in (False, True):
        output = language_model.chat(
            messages, **asked(labels, allow_special_tokens=allowed, logprobs=0)
        )
        assert output.scores
        found[allowed] = {each.choice: each.tokens for each in output.scores}
    assert found == {
        False: {"a<|im_end|>": 8, "a": 1, "\n<|im_end|>": 8},
        True: {"a<|im_end|>": 2, "a": 1, "\n<|im_end|>": 2},
    }
    loaded = language_model._core.loaded
    assert end not in loaded.encode_label("<|im_end|>")
    assert loaded.encode_label("<|im_end|>", allow_special_tokens=True) == [end]
