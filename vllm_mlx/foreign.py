"""`refusal_of`: what to use in place of other systems' settings, which `FOREIGN` names.

Needs no MLX.

A setting that another system knows and this one does not must not be carried as a column, or be
lost in an error that only says "unknown": who wrote it expects it to act. Names that people give to
columns of their own (`format`, `options`, `regex`, `priority`, `documents`) do not stand here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NUMBER = (int, float)


class Foreign(NamedTuple):
    """A setting of another system.

    Attributes:
        advice: what to use in its place, or why there is nothing.
        neutral: values that ask for nothing, beside null and what is empty.
        kinds: types of its values, where other values are those of a column; any if empty.
        empty_acts: an empty object asks for something, too.
    """

    advice: str
    neutral: tuple[Any, ...] = ()
    kinds: tuple[type, ...] = ()
    empty_acts: bool = False

    def is_neutral(self, value: Any) -> bool:
        """Whether a value asks for nothing."""
        if self.empty_acts and value == {}:
            return False
        return asks_for_nothing(value, self.neutral)


_BEAMS = "there is no beam search: ask for several samples with n"
_SHAPE = "use top_p, top_k or min_p"
_REPEATS = "use repetition_penalty, presence_penalty or frequency_penalty"
_TOKENS = "use logit_bias, by token id"
_MOST = "use max_tokens"
_LEAST = "use min_tokens"
_STOP = "use stop"
_TEXT = "the text is without special tokens and without what stopped it"
_NESTED = "put its settings beside the prompt"
_WHOLE = "answers come whole, in the dataset"
_TOOLS = "use tools and tool_choice"
_CONTEXT = "the model's own holds; a worker has --kv-cache-bytes"
_DRAFTS = "there is no speculative decoding"
_OUT = "only text is answered"

FOREIGN: dict[str, Foreign] = {
    # Beams and samples: vLLM, transformers, OpenAI.
    "best_of": Foreign("ask for several samples with n and choose among them", (1,)),
    "use_beam_search": Foreign(_BEAMS, (False,)),
    "num_beams": Foreign(_BEAMS, (1,)),
    "num_beam_groups": Foreign(_BEAMS, (1,)),
    "beam_width": Foreign(_BEAMS, (1,)),
    "diversity_penalty": Foreign(_BEAMS, (0,)),
    "length_penalty": Foreign(_BEAMS, (1,)),
    "early_stopping": Foreign(_BEAMS, (False,), (bool,)),
    "num_return_sequences": Foreign("use n", (1,)),
    "candidate_count": Foreign("use n", (1,), NUMBER),
    "do_sample": Foreign("use temperature; 0 is greedy", (True,)),
    # Shapes of distributions: llama.cpp, transformers, TGI, text-generation-webui.
    "typical_p": Foreign(_SHAPE, (1, 0)),
    "tfs_z": Foreign(_SHAPE, (1,)),
    "top_a": Foreign(_SHAPE, (0,), NUMBER),
    "eta_cutoff": Foreign(_SHAPE, (0,)),
    "epsilon_cutoff": Foreign(_SHAPE, (0,)),
    "mirostat": Foreign(_SHAPE, (0,)),
    "mirostat_mode": Foreign(_SHAPE, (0,)),
    "mirostat_tau": Foreign(_SHAPE),
    "mirostat_eta": Foreign(_SHAPE),
    "xtc_probability": Foreign(_SHAPE, (0,)),
    "xtc_threshold": Foreign(_SHAPE),
    "dynatemp_range": Foreign(_SHAPE, (0,)),
    "smoothing_factor": Foreign(_SHAPE, (0,), NUMBER),
    "penalty_alpha": Foreign(_SHAPE, (0,)),
    "guidance_scale": Foreign("there is no guidance by a second prompt", (1,)),
    "negative_prompt": Foreign("there is no guidance by a second prompt"),
    "watermark": Foreign("texts are not marked", (False,), (bool,)),
    # Repetition.
    "no_repeat_ngram_size": Foreign(f"{_REPEATS}, or stop_on_repetition", (0,)),
    "encoder_repetition_penalty": Foreign(_REPEATS, (1,)),
    "dry_multiplier": Foreign(_REPEATS, (0,)),
    "dry_base": Foreign(_REPEATS),
    "dry_allowed_length": Foreign(_REPEATS),
    "repeat_last_n": Foreign("repetition_penalty reaches 20 tokens back", (20,)),
    "repetition_context_size": Foreign("repetition_penalty reaches 20 tokens back", (20,)),
    "presence_context_size": Foreign("presence_penalty reaches all generated tokens"),
    "frequency_context_size": Foreign("frequency_penalty reaches all generated tokens"),
    # Tokens.
    "bad_words": Foreign(_TOKENS),
    "bad_words_ids": Foreign(_TOKENS),
    "allowed_token_ids": Foreign(f"{_TOKENS}, or structured_outputs"),
    "suppress_tokens": Foreign(_TOKENS),
    "begin_suppress_tokens": Foreign(_TOKENS),
    "sequence_bias": Foreign(_TOKENS),
    "force_words_ids": Foreign(_TOKENS),
    "forced_bos_token_id": Foreign(_TOKENS),
    "forced_eos_token_id": Foreign(_TOKENS),
    "logits_processors": Foreign(_TOKENS),
    "custom_logit_processor": Foreign(_TOKENS),
    # Lengths and ends.
    "max_length": Foreign(f"{_MOST}, which counts the answer alone", (), NUMBER),
    "max_output_tokens": Foreign(_MOST),
    "maxOutputTokens": Foreign(_MOST),
    "max_gen_toks": Foreign(_MOST),
    "max_tokens_to_sample": Foreign(_MOST),
    "n_predict": Foreign(_MOST),
    "num_predict": Foreign(_MOST),
    "min_length": Foreign(f"{_LEAST}, which counts the answer alone", (0,), NUMBER),
    "min_new_tokens": Foreign(_LEAST, (0,)),
    "eos_token_id": Foreign("use stop_token_ids"),
    "stop_regex": Foreign(_STOP),
    "stop_strings": Foreign(_STOP),
    "stop_words": Foreign(_STOP, (), (list,)),
    "random_seed": Foreign("use seed", (), NUMBER),
    "sampling_seed": Foreign("use seed"),
    # What is returned.
    "include_stop_str_in_output": Foreign(_TEXT, (False,)),
    "no_stop_trim": Foreign(_TEXT, (False,)),
    "skip_special_tokens": Foreign(_TEXT, (True,)),
    "spaces_between_special_tokens": Foreign(_TEXT, (True, False)),
    "detokenize": Foreign(_TEXT, (True,)),
    "echo": Foreign("the prompt is a column of the dataset already", (False,), (bool,)),
    "return_full_text": Foreign("the prompt is a column of the dataset already", (False,)),
    "return_token_ids": Foreign("use logprobs: 0, which names each token's id", (False,)),
    "return_tokens_as_token_ids": Foreign("logprobs name each token's id", (False,)),
    "decoder_input_details": Foreign("use prompt_logprobs", (False,)),
    "top_n_tokens": Foreign("use logprobs", (0,)),
    "n_probs": Foreign("use logprobs", (0,)),
    "stream": Foreign(_WHOLE, (False,), (bool,)),
    "stream_options": Foreign(_WHOLE),
    "modalities": Foreign(_OUT, (["text"],), (list,)),
    "audio": Foreign(_OUT, (), (dict,)),
    # What an answer must be: vLLM before 0.12, SGLang, llama.cpp.
    "guided_json": Foreign('use structured_outputs: {"json": schema}'),
    "guided_regex": Foreign('use structured_outputs: {"regex": expression}'),
    "guided_choice": Foreign('use structured_outputs: {"choice": labels}'),
    "guided_grammar": Foreign('use structured_outputs: {"grammar": grammar}'),
    "guided_json_object": Foreign('use structured_outputs: {"json_object": true}', (False,)),
    "guided_decoding": Foreign("use structured_outputs"),
    "guided_decoding_backend": Foreign("structured_outputs has one backend"),
    "guided_whitespace_pattern": Foreign("structured_outputs decides on white space"),
    "structural_tag": Foreign("use structured_outputs or tools"),
    "json_schema": Foreign('use structured_outputs: {"json": schema}'),
    "ebnf": Foreign('use structured_outputs: {"grammar": grammar}'),
    # Prompts and chats.
    "system_prompt": Foreign("make it the first message, of the role system"),
    "chat_template": Foreign("the model's own template is used"),
    "add_special_tokens": Foreign("the model's template, or its tokenizer, adds them"),
    "truncate_prompt_tokens": Foreign("a prompt that is too long is an error of its row"),
    "functions": Foreign(_TOOLS, (), (list,)),
    "function_call": Foreign(_TOOLS, ("none", "auto")),
    "reasoning_effort": Foreign('use chat_template_kwargs: {"reasoning_effort": effort}'),
    "enable_thinking": Foreign("use thinking, which is on or off"),
    "thinking_token_budget": Foreign("use thinking_budget"),
    "verbosity": Foreign("say in the prompt how long an answer should be", ("medium",), (str,)),
    "web_search_options": Foreign("nothing is looked up", empty_acts=True),
    "prediction": Foreign(_DRAFTS, (), (dict,)),
    "mm_processor_kwargs": Foreign("use video_fps and video_max_frames"),
    # Settings within settings.
    "sampling_params": Foreign(_NESTED),
    "extra_body": Foreign(_NESTED),
    "generation_config": Foreign(_NESTED, (), (dict,)),
    "generationConfig": Foreign(_NESTED),
    # How a server works.
    "num_ctx": Foreign(_CONTEXT),
    "max_model_len": Foreign(_CONTEXT),
    "cache_prompt": Foreign("what prompts share is computed once, always", (True, False)),
    "lora_request": Foreign("a run has one adapter: --adapter"),
    "draft_model": Foreign(_DRAFTS),
    "num_draft_tokens": Foreign(_DRAFTS, (0,)),
    "num_assistant_tokens": Foreign(_DRAFTS, (0,)),
    "prompt_lookup_num_tokens": Foreign(_DRAFTS, (0,)),
    "kv_transfer_params": Foreign("rows are prefilled where they are decoded"),
    "vllm_xargs": Foreign("there are no extensions"),
}

_KEPT = "leave it out; rows of files carry it as a column"
OF_OPENAI: dict[str, str] = {
    "max_completion_tokens": _MOST,
    "top_logprobs": "use logprobs: how many of the most likely tokens to report",
    "model": "leave it out; the model is the one that is loaded",
    # What OpenAI keeps, counts, caches and charges a request by.
    "metadata": _KEPT,
    "prompt_cache_key": _KEPT,
    "prompt_cache_retention": _KEPT,
    "safety_identifier": _KEPT,
    "service_tier": _KEPT,
    "store": _KEPT,
    "user": _KEPT,
}
"""What rows of OpenAI's batch files may have besides, and what to do with it in a call in Python.

In plain rows the latter are columns of one's own.
"""


def asks_for_nothing(value: Any, neutral: Iterable[Any] = ()) -> bool:
    """Whether a setting's value is null, empty or one of those that change nothing."""
    if value is None or (isinstance(value, list | tuple | dict | str) and not value):
        return True
    # To Python 0 is False and 1 is True.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral
    )


def refusal_of(name: str, value: Any) -> str | None:
    """Return why a setting of another system is refused and what to use; None if it is not."""
    foreign = FOREIGN.get(name)
    if foreign is None:
        return None
    meant = _of_text(value) if isinstance(value, str) else value
    if foreign.is_neutral(meant):
        return None
    is_number = type(meant) is not bool or bool in foreign.kinds
    if foreign.kinds and not (isinstance(meant, foreign.kinds) and is_number):
        return None
    return f"not supported; {foreign.advice}"


def refusal_in_a_call(name: str, value: Any) -> str | None:
    """Return the same of a keyword argument in Python, which is no column of one's own."""
    if name in FOREIGN:
        return refusal_of(name, value)
    return f"not supported; {OF_OPENAI[name]}" if name in OF_OPENAI else None


def advice_on(name: str) -> str | None:
    """Return what to use in place of a setting, whatever its value; None of no such name."""
    return FOREIGN[name].advice if name in FOREIGN else OF_OPENAI.get(name)


def without_foreign(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments without those of other systems that ask for nothing."""
    return {name: value for name, value in options.items() if not _is_nothing(name, value)}


def _is_nothing(name: str, value: Any) -> bool:
    if name in FOREIGN:
        return FOREIGN[name].is_neutral(value)
    return name in OF_OPENAI and asks_for_nothing(value)


def _of_text(text: str) -> Any:
    """Return what a table's cell means: JSON, or Python's and spreadsheets' True."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
