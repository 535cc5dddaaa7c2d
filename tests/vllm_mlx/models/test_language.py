"""The documented language-model API, on the real model and, where it matters only that tokens come,
on a tiny one."""

from __future__ import annotations

import logging
import re
import threading
import time

import pytest
from mlx_lm.sample_utils import greedy_sampler

from tests.helpers.decoding import ENDLESS
from vllm_mlx.errors import (
    ChatTemplateError,
    ContextLengthError,
    EngineStoppedError,
    InvalidRequestError,
    ModelLoadError,
)
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.outputs import GenerationOutput

CHAT = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_generate_returns_the_one_output(language_model):
    output = language_model.generate("The capital of France is", max_tokens=5, temperature=0)
    assert isinstance(output, GenerationOutput)
    assert "Paris" in output.text
    assert (output.prompt_tokens, output.completion_tokens) == (5, 5)
    assert output.finish_reason == "length"


def test_chat_uses_the_template_and_counts_the_end_token(language_model):
    output = language_model.chat(CHAT, max_tokens=40, temperature=0)
    tokenizer = language_model._core.loaded.tokenizer
    assert output.text == "The capital of France is Paris."
    assert output.finish_reason == "stop"
    assert output.completion_tokens == len(tokenizer.encode(output.text)) + 1
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)
    assert output.prompt_tokens == len(rendered)


def test_greedy_is_what_mlx_lm_generates(language_model):
    from mlx_lm import stream_generate

    from vllm_mlx.models.loading import load_model

    loaded = load_model("smollm2-135m")
    prompt = "Water boils at"
    expected = stream_generate(
        loaded.model, loaded.tokenizer, prompt, max_tokens=12, sampler=greedy_sampler
    )
    text = loaded.tokenizer.decode([chunk.token for chunk in expected])
    assert text.startswith(" ")  # mlx-lm's stream drops it
    assert language_model.generate(prompt, max_tokens=12, temperature=0).text == text


@pytest.mark.parametrize("stop", [None, "the", ["\n", ". "]])
def test_a_stream_joined_is_the_text(tiny_model, stop):
    options = {"max_tokens": 24, "seed": 11, "stop": stop}
    chunks = list(tiny_model.stream_generate("Once upon a time", **options))
    whole = tiny_model.generate("Once upon a time", **options)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert all(chunk.text for chunk in chunks[:-1])
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.finish_reason == whole.finish_reason
    assert last.completion_tokens == whole.completion_tokens
    assert last.prompt_tokens == whole.prompt_tokens


def test_stop_is_trimmed_also_across_tokens(tiny_model):
    free = tiny_model.generate("Count: 1 2 3 4", max_tokens=24, temperature=0)
    stop = free.text[6:9]  # wherever token borders are
    stopped = tiny_model.generate("Count: 1 2 3 4", max_tokens=24, temperature=0, stop=stop)
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < free.completion_tokens


def test_no_half_characters(language_model):
    prompt = "Emoji: 😀 😃 😄 😁 😆 😅 😂 🤣 😊"
    for limit in range(1, 6):  # an emoji is up to four tokens
        options = {"max_tokens": limit, "temperature": 0}
        chunks = [chunk.text for chunk in language_model.stream_generate(prompt, **options)]
        assert "\ufffd" not in "".join(chunks)
        assert "".join(chunks) == language_model.generate(prompt, **options).text


def test_a_seed_repeats_and_another_differs(tiny_model):
    def texts(**options):
        return tiny_model.generate("Once upon a time", max_tokens=16, **options).text

    assert texts(seed=1, temperature=1.0) == texts(seed=1, temperature=1.0)
    assert texts(seed=1, temperature=1.0) != texts(seed=2, temperature=1.0)


def test_a_sampled_output_names_the_seed_that_repeats_it(tiny_model):
    first = tiny_model.generate("Once upon a time", max_tokens=12, temperature=1.0)
    again = tiny_model.generate("Once upon a time", max_tokens=12, temperature=1.0, seed=first.seed)
    assert again.text == first.text
    assert tiny_model.generate("x", max_tokens=1, temperature=0).seed is None


@pytest.mark.parametrize(
    "options",
    [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}],
    ids=["top_k", "top_p", "min_p"],
)
def test_each_filter_acts(tiny_model, options):
    greedy = tiny_model.generate("The sky is", max_tokens=8, temperature=0).text
    hot = {"max_tokens": 8, "temperature": 2.0, "seed": 5}
    assert tiny_model.generate("The sky is", **hot, top_p=1.0).text != greedy
    assert tiny_model.generate("The sky is", **{**hot, "top_p": 1.0, **options}).text == greedy


def test_repetition_penalty_acts(language_model):
    prompt = "la la la la la la la la"
    plain = language_model.generate(prompt, max_tokens=8, temperature=0).text
    assert (
        language_model.generate(prompt, max_tokens=8, temperature=0, repetition_penalty=1.8).text
        != plain
    )


def test_penalties_for_what_was_generated_act(language_model):
    options = {"prompt": "la la la la la la la la", "max_tokens": 12, "temperature": 0}
    plain = language_model.generate(**options, logprobs=0)
    for name in ("presence_penalty", "frequency_penalty"):
        penalized = language_model.generate(**options, **{name: 2.0}, logprobs=0)
        kinds = [len({each.token_id for each in said.logprobs}) for said in (plain, penalized)]
        assert kinds[0] < kinds[1], name


def test_a_banned_token_is_not_said(language_model):
    paris = language_model.tokenizer.encode(" Paris", add_special_tokens=False)[0]
    options = {"prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}
    assert "Paris" in language_model.generate(**options).text
    assert " Paris" not in language_model.generate(**options, logit_bias={paris: -100}).text
    with pytest.raises(InvalidRequestError, match="logit_bias: 999999 is no token of this model"):
        language_model.generate("x", logit_bias={999999: 1})


def test_a_stop_token_ends_the_text_and_is_no_part_of_it(language_model):
    paris = language_model.tokenizer.encode(" Paris", add_special_tokens=False)[0]
    output = language_model.chat(CHAT, max_tokens=40, temperature=0, stop_token_ids=[paris])
    assert output.text == "The capital of France is"
    assert (output.finish_reason, output.completion_tokens) == ("stop", 6)


def test_an_answer_goes_on_past_its_end_as_long_as_it_must(language_model):
    whole = language_model.chat(CHAT, max_tokens=40, temperature=0)
    forced = language_model.chat(CHAT, max_tokens=20, min_tokens=15, temperature=0)
    assert forced.completion_tokens >= 15 > whole.completion_tokens
    assert forced.text.startswith(whole.text)
    text = "The capital of France is"
    assert language_model.chat(CHAT, 20, temperature=0, stop="France").text == "The capital of "
    late = language_model.chat(CHAT, 20, temperature=0, stop="France", min_tokens=6)
    assert late.text.startswith(text)


def test_end_tokens_are_ignored_and_left_out_of_the_text(language_model):
    whole = language_model.chat(CHAT, max_tokens=40, temperature=0)
    output = language_model.chat(CHAT, 30, temperature=0, ignore_eos=True, logprobs=0)
    assert (output.finish_reason, output.completion_tokens) == ("length", 30)
    tokens = [each.token_id for each in output.logprobs]
    assert tokens[whole.completion_tokens - 1] in language_model.tokenizer.eos_token_ids
    assert output.text.startswith(whole.text)
    assert "<|im_end|>" not in output.text


@pytest.mark.parametrize(
    "options", [{"max_tokens": -1}, {"temperature": 3.0}, {"top_p": 0.0}, {"beam": 4}]
)
def test_wrong_values_and_unknown_keywords_raise(language_model, options):
    for call in (language_model.generate, language_model.stream_generate, language_model.chat):
        with pytest.raises(InvalidRequestError):
            call("x", **options)


def test_the_last_message_is_gone_on_with(language_model):
    begun = [*CHAT, {"role": "assistant", "content": "The capital of "}]
    tokenizer = language_model.tokenizer
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    options = {"max_tokens": 8, "temperature": 0}

    output = language_model.chat(begun, **options, continue_final_message=True)

    written = language_model.generate(prompt + "The capital of ", **options)
    assert (output.text, output.prompt_tokens) == (written.text, written.prompt_tokens)
    pairs = {"continue_final_message": True, "add_generation_prompt": False}
    assert language_model.chat(begun, **options, **pairs).text == output.text
    assert begun[-1]["content"] == "The capital of "
    assert language_model.chat(begun, **options).prompt_tokens > output.prompt_tokens


def test_no_answer_is_begun_where_none_is_asked_for(language_model):
    tokenizer = language_model.tokenizer
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=False, tokenize=False)
    options = {"max_tokens": 4, "temperature": 0}

    output = language_model.chat(CHAT, **options, add_generation_prompt=False)

    written = language_model.generate(prompt, **options)
    assert (output.text, output.prompt_tokens) == (written.text, written.prompt_tokens)
    begun = language_model.chat(CHAT, **options, add_generation_prompt=True)
    assert begun.prompt_tokens > output.prompt_tokens


CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    "last",
    [
        [],
        [{"role": "assistant", "content": " "}],
        [{"role": "assistant", "content": "So", "tool_calls": [CALL]}],
    ],
)
def test_there_is_a_message_to_go_on_with(language_model, last):
    with pytest.raises(InvalidRequestError, match="continue_final_message: the last message"):
        language_model.chat([*CHAT, *last], continue_final_message=True)
    with pytest.raises(InvalidRequestError, match="continue_final_message: no chat template"):
        language_model.generate("x", continue_final_message=True)
    with pytest.raises(InvalidRequestError, match="continue_final_message: goes on with"):
        language_model.chat(CHAT, continue_final_message=True, add_generation_prompt=True)


def test_an_empty_prompt_raises(language_model):
    for call in (language_model.generate, language_model.chat):
        with pytest.raises(InvalidRequestError, match="empty"):
            call("" if call == language_model.generate else [])


def test_a_prompt_beyond_the_context_raises_with_the_numbers(language_model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with pytest.raises(ContextLengthError, match=r"9001 tokens.*8192"):
        language_model.generate("word " * 9000, max_tokens=1)
    with pytest.raises(ContextLengthError):
        language_model.chat([{"role": "user", "content": "word " * 9000}], max_tokens=1)
    assert not caplog.records, "transformers would warn of indexing errors"


def test_a_template_that_rejects_the_messages_says_so(language_model, monkeypatch):
    tokenizer = language_model._core.loaded.tokenizer._tokenizer
    monkeypatch.setattr(
        tokenizer, "chat_template", "{{ raise_exception('no ' + messages[0].role) }}"
    )
    with pytest.raises(ChatTemplateError, match=r"smollm2-135m.*no user"):
        language_model.chat([{"role": "user", "content": "hi"}])


def test_a_message_is_checked_as_in_files(language_model):
    with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.content: missing"):
        language_model.chat([{"role": "user", "content": "hi"}, {"role": "user"}])


@pytest.mark.parametrize("prompt", [5, None, [["a"]], b"hi", [{"role": "user", "content": "x"}]])
def test_a_plain_prompt_is_a_string(language_model, prompt):
    for call in (language_model.generate, language_model.stream_generate):
        with pytest.raises(InvalidRequestError, match=r"prompt is a .*should be a string"):
            call(prompt)


@pytest.mark.parametrize("messages", ["hello", {"role": "user"}, ["a"], [None], 5])
def test_a_chat_is_a_list_of_messages(language_model, messages):
    with pytest.raises(InvalidRequestError, match="should be a"):
        language_model.chat(messages)


HALF = "half: \ud83d"


def test_half_a_surrogate_pair_is_no_prompt(language_model):
    said = r"prompt='half: \\ud83d': holds '\\ud83d', half a surrogate pair.*leave it out"
    with pytest.raises(InvalidRequestError, match=said):
        language_model.generate(HALF)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "user", "content": HALF}, r"messages\[1\]\.content="),
        (
            {"role": "user", "content": [{"type": "text", "text": HALF}]},
            r"messages\[1\]\.content\[0\]\.text=",
        ),
        ({"role": HALF, "content": "Hi"}, r"messages\[1\]\.role="),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"arguments": {"city": HALF}}]},
            r"messages\[1\]\.tool_calls\[0\]\.arguments\.city=",
        ),
    ],
)
def test_half_a_surrogate_pair_is_no_message(language_model, message, where):
    with pytest.raises(InvalidRequestError, match=f"^{where}.*half a surrogate pair"):
        language_model.chat([{"role": "user", "content": "Hi"}, message])


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (5, "stop=5: should be a string, or a list of strings"),
        (b"END", "stop=b'END': should be a string, or a list of strings"),
        ([5], "stop[0]=5: should be a valid string"),
        (["END", ""], "stop[1]='': String should have at least 1 character"),
    ],
)
def test_what_is_no_stop_string_is_told(language_model, stop, said):
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(said)}"):
        language_model.generate("Hi", stop=stop)


def test_prompt_and_text_join_without_losing_a_space(language_model):
    output = language_model.generate("The capital of France is", max_tokens=2, temperature=0)
    assert output.text.startswith(" Paris")


def test_a_temperature_whose_inverse_overflows_is_greedy(tiny_model):
    greedy = tiny_model.generate("The sky is", max_tokens=6, temperature=0).text
    assert tiny_model.generate("The sky is", max_tokens=6, temperature=1e-40).text == greedy


def test_unloading_beside_calls_ends_them_or_lets_them_answer(text_folder):
    """Load and step stay on one thread, and nobody waits for ever."""
    model = MLXLanguageModel(text_folder)
    results: list[object] = []

    def call() -> None:
        for _ in range(2):
            try:
                results.append(model.generate("Hello", max_tokens=200).completion_tokens)
            except EngineStoppedError as error:
                results.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.7)
        model.unload()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 4
    model.unload()


def test_leaving_a_stream_ends_the_generation(tiny_model):
    for _ in tiny_model.stream_generate("Once upon a time", **ENDLESS):
        break
    output = tiny_model.generate("The capital of France is", max_tokens=2, temperature=0)
    assert output.latency_s < 20


def test_calls_from_threads_are_first_come_first_served(text_folder):
    limits, ended = [30, 60, 30, 90, 15], []
    model = MLXLanguageModel(text_folder, max_num_seqs=1)

    def call(limit: int) -> None:
        model.generate("Once upon a time", limit, temperature=0)
        ended.append(limit)

    threads = [threading.Thread(target=call, args=(limit,)) for limit in limits]
    stream = model.stream_generate("Once upon a time", **ENDLESS)
    next(stream)
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        while model._core.stats.waiting < waiting:
            time.sleep(0.01)
    stream.close()
    for thread in threads:
        thread.join()
    assert ended == limits
    model.unload()


def test_a_model_loads_itself_and_again_after_unload(text_folder):
    model = MLXLanguageModel(text_folder)
    assert model.generate("The capital of France is", max_tokens=2, temperature=0).text
    model.unload()
    assert model.generate("The capital of France is", max_tokens=2, temperature=0).text
    model.unload()


@pytest.mark.parametrize("name", ["invalid-model", "no/such-model", "./missing.gguf", "/tmp"])
def test_a_model_that_is_not_there_says_which(name):
    with pytest.raises(ModelLoadError, match=name.replace(".", r"\.")):
        MLXLanguageModel(name).load()
