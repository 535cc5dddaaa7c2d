"""`SamplingParams`: how tokens are chosen, and the only place that states the defaults."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.forced_calls import forced_outputs
from vllm_mlx.foreign import without_foreign
from vllm_mlx.parameters import Parameters, plain_scalar, whole
from vllm_mlx.sampling_types import Biases, LogprobCount, StopStrings, TokenIds
from vllm_mlx.seeds import sample_seed
from vllm_mlx.structured_outputs import StructuredOutputs, StructuredOutputsField
from vllm_mlx.template_settings import TemplateKwargsField, ThinkingField
from vllm_mlx.tools import (
    ToolChoiceField,
    ToolsField,
    check_tools,
    is_forced,
)


class SamplingParams(Parameters):
    """Sampling settings of one request; frozen, validated, with every default."""

    max_tokens: int = Field(256, ge=0, le=2**31 - 1)
    """Most tokens to generate, the end token included; 0 only reads the prompt."""
    temperature: float = Field(0.7, ge=0.0, le=2.0, allow_inf_nan=False)
    """How random the choice of a token is; 0 is greedy: always the most likely one."""
    top_p: float = Field(0.9, gt=0.0, le=1.0, allow_inf_nan=False)
    """Sample from the smallest set of tokens with this much probability; 1 is off."""
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    """Sample from this many most likely tokens; 0 is off."""
    min_p: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    """Drop tokens less likely than this times the most likely one; 0 is off."""
    repetition_penalty: float = Field(1.0, gt=0.0, le=2.0, allow_inf_nan=False)
    """Divide the logits of recent tokens by this; 1 is off."""
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0, allow_inf_nan=False)
    """Subtract this from the logits of tokens that were generated; 0 is off."""
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0, allow_inf_nan=False)
    """Subtract this once for each time that a token was generated; 0 is off."""
    logit_bias: Biases = None
    """Add to the logits of tokens, by id: -100 bans one, 100 leaves hardly another choice."""
    stop: StopStrings = None
    """Strings (or one) that end the text; they are trimmed from it."""
    stop_token_ids: TokenIds = None
    """Tokens (or one) that end the text, as the model's own end tokens do."""
    min_tokens: int = Field(0, ge=0, le=2**31 - 1)
    """Tokens to generate before an end token or a stop string may end the text."""
    ignore_eos: bool = False
    """Go on where the model would end, up to `max_tokens`; its end tokens are left out."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Makes sampling repeatable, whatever else is in the batch; drawn and recorded if not given.

    The promise ends where floating point does: at another width of the batch or in another type
    sums are rounded differently (some 1e-6 in float32, 1e-2 in bfloat16), and a token that is that
    close to another may be the other.
    """
    logprobs: LogprobCount = Field(None, ge=0, le=20)
    """Report each token's log-probability, and those of this many most likely tokens there."""
    prompt_logprobs: LogprobCount = Field(None, ge=0, le=20)
    """The same of each token of the prompt; of the first there is none."""
    stop_on_repetition: bool = False
    """End a text whose tail repeats itself, with the `finish_reason` `repetition`."""
    allow_special_tokens: bool = False
    """Let control tokens in messages and in labels to rank act; they are plain text otherwise."""
    thinking: ThinkingField = None
    """Whether the model thinks before it answers a chat; what its chat template does if not given.

    It sets what the model's template reads, such as `enable_thinking`; a model whose template has
    no such switch refuses the row.
    """
    thinking_budget: int | None = Field(None, ge=0, le=2**31 - 1)
    """Most tokens to think; then the thought is closed, and the answer goes on.

    They are of `max_tokens`, too. All thoughts of an answer count, their markers do not.
    """
    chat_template_kwargs: TemplateKwargsField = None
    """What the model's chat template reads beside the messages, such as `reasoning_effort`.

    A name that the template does not read is an error of the row.
    """
    add_generation_prompt: bool | None = None
    """Whether the prompt of a chat ends where an answer begins; yes, unless one is gone on with."""
    continue_final_message: bool = False
    """Go on with the assistant's last message in place of a new one; the text is what is added."""
    tools: ToolsField = None
    """Functions that the model may call, as OpenAI describes them; its chat template shows them.

    Calls are parsed into `tool_calls`, and are no part of the text.
    """
    tool_choice: ToolChoiceField = None
    """Whether a tool is called: `auto`, `none`, `required`, or a function by its name:
    `{"type": "function", "function": {"name": …}}`.

    With `none` the model is shown no tools. A call that has to be made is held to the schema of the
    function's parameters.
    """
    parallel_tool_calls: bool = True
    """Whether one answer may call several tools; if not, its first call is the only one."""
    structured_outputs: StructuredOutputsField = None
    """What the answer must be: `{"json": schema}`, `{"regex": …}`, `{"choice": [labels]}`,
    `{"grammar": …}` or `{"json_object": true}`.

    OpenAI's `response_format` says the same, and `{"type": "text"}` of either switches a default
    off. No token is chosen that could not lead to such an answer; one that `max_tokens` cuts has
    the `finish_reason` `length`.
    """

    score_choices: bool = False
    """Rank the labels of a `choice` by how likely they follow the prompt, and generate nothing.

    The text is the best of them, and `scores` has all. They follow the prompt at once, without a
    thought or an end token.
    """
    normalize_scores: bool = False
    """Rank them by the mean log-probability of their tokens, not by the sum."""

    @model_validator(mode="before")
    @classmethod
    def _response_format(cls, data: Any) -> Any:
        """Take OpenAI's way to say `structured_outputs`."""
        if not isinstance(data, dict) or "response_format" not in data:
            return data
        rest = {name: each for name, each in data.items() if name != "response_format"}
        if (given := data["response_format"]) is None:
            return rest
        if rest.get("structured_outputs") is not None:
            raise ValueError("give one of structured_outputs and response_format")
        try:
            return {**rest, "structured_outputs": StructuredOutputs.of_response_format(given)}
        except ValueError as error:
            raise ValueError(f"response_format: {error}") from None

    @classmethod
    def of(cls, **options: Any) -> Self:
        return super().of(**without_foreign(options)).agreeing()

    def agreeing(self) -> Self:
        """Return these settings if none contradicts another.

        Raises:
            InvalidRequestError: naming those that do.
        """
        if self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens={self.min_tokens}: more than max_tokens={self.max_tokens}"
            )
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequestError(
                "continue_final_message: goes on with a message; add_generation_prompt begins "
                "another one: give one of them"
            )
        check_tools(self.tools, self.tool_choice)
        if self.tools and self.structured_outputs and self.tool_choice != "none":
            raise InvalidRequestError(
                "structured_outputs: an answer that is held to it can't call tools: leave one out, "
                "or give tool_choice='none'"
            )
        if self.held().structured_outputs:
            ends = ("stop", "stop_token_ids", "min_tokens", "ignore_eos")
            if clashes := [name for name in ends if getattr(self, name)]:
                name = "structured_outputs" if self.structured_outputs else "tool_choice"
                raise InvalidRequestError(
                    f"{clashes[0]}={getattr(self, clashes[0])!r}: an answer ends where {name} "
                    "says; leave one of them out"
                )
        if self.score_choices and self.max_tokens == 0:
            raise InvalidRequestError(
                "max_tokens=0: a label to rank has a token or more, and max_tokens is the most "
                "that one may have; leave it out"
            )
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels that the answer is one of; none where it is held to none."""
        held = self.structured_outputs
        return held.value if held and isinstance(held.value, tuple) else ()

    def held(self) -> Self:
        """Return these settings with a call that has to be made as what the answer is held to.

        Raises:
            InvalidRequestError: the schema of a function's parameters can't be held.
        """
        if not self.tools or not is_forced(self.tool_choice):
            return self
        most = 1 if not self.parallel_tool_calls else None
        outputs = forced_outputs(self.tools, self.tool_choice, most)
        return self.model_copy(update={"structured_outputs": outputs})

    def within(self, vocab_size: int) -> Self:
        """Return these settings if a model of so many tokens has all that they name.

        Raises:
            InvalidRequestError: naming the setting and the token.
        """
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(self, name) or ():
                if token >= vocab_size:
                    raise InvalidRequestError(
                        f"{name}: {token} is no token of this model, whose ids are 0 to "
                        f"{vocab_size - 1}"
                    )
        return self

    def for_samples(self, n: int) -> list[SamplingParams]:
        """Return these settings for each of `n` samples of one prompt, with seeds that differ.

        Raises:
            InvalidRequestError: `n` is no positive integer, or all samples would be the same.
        """
        n = whole(plain_scalar(n))
        if type(n) is not int:
            raise InvalidRequestError(f"n={n!r}: should be an integer, not {type(n).__name__}")
        if n < 1:
            raise InvalidRequestError(f"n={n}: should be at least 1")
        if n > 1 and self.greedy:
            nothing = self.max_tokens == 0 or self.score_choices
            why = "without a token" if nothing else "at temperature 0"
            raise InvalidRequestError(f"n={n}: {why} all samples are the same")
        if self.seed is None:
            return [self] * n
        seeds = (sample_seed(self.seed, index) for index in range(n))
        return [self.model_copy(update={"seed": seed}) for seed in seeds]

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: at 0, or so near that 1/T overflows, or without a token."""
        return self.temperature < 1e-6 or self.max_tokens == 0 or self.score_choices
