"""`SamplingOptions`: the keyword arguments of calls, whose meaning `SamplingParams` declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

from vllm_mlx.structured_outputs import StructuredOutputs
from vllm_mlx.template_settings import Thinking


class MoreOptions(TypedDict, total=False):
    """`SamplingOptions` of calls that have `max_tokens` as an argument of its own."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    stop: str | Collection[str] | None
    stop_token_ids: int | Collection[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    seed: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    stop_on_repetition: bool | None
    allow_special_tokens: bool | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    score_choices: bool | None
    normalize_scores: bool | None
    thinking: Thinking | bool | None
    thinking_budget: int | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None


class SamplingOptions(MoreOptions, total=False):
    """The keyword arguments of every `generate` and `chat`: see `SamplingParams`."""

    max_tokens: int | None
